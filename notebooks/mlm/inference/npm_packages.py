"""The two JavaScript libraries of the browser page, from archives that the user fetches with npm."""

import shlex
import tarfile
from dataclasses import dataclass
from pathlib import Path

from mlm.env.files import atomic_write, first_damaged
from mlm.env.notebook import NotebookError


@dataclass(frozen=True)
class NpmPackage:
    """A package of a fixed version, and which of its files the page needs."""

    name: str
    version: str
    sha256: str  # of the archive
    files: dict[str, str]  # {name in the archive: name in the folder of the page}

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives to the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    NpmPackage(
        "@huggingface/tokenizers",  # text -> token ids, as tokenizer.json says
        "0.2.0",
        "2800014c83b8186b2e4210c20672f1fb65a12cef85d7e95e0f2003e022611b4a",
        {"dist/tokenizers.min.mjs": "tokenizers.mjs", "LICENSE": "tokenizers-LICENSE"},
    ),
    NpmPackage(
        "onnxruntime-web",  # token ids -> logits, in WebAssembly
        "1.30.0",
        "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        {
            "dist/ort.wasm.bundle.min.mjs": "onnxruntime.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        },
    ),
)


def pack_command(folder: Path) -> str:
    """The command that fetches the archives into `folder`."""
    names = " ".join(f"{package.name}@{package.version}" for package in PACKAGES)
    return f"npm pack --pack-destination {shlex.quote(str(folder))} {names}"


def check_archives(folder: Path) -> None:
    """Raises NotebookError with the command to run if an archive in `folder` is missing or damaged."""
    bad = first_damaged(folder, {package.archive: package.sha256 for package in PACKAGES})
    if bad:
        problem = "is damaged" if (folder / bad).exists() else "is missing"
        raise NotebookError(
            f"page=True: {folder / bad} {problem}; the page needs two packages of npm (35 MB, once): "
            f"run `{pack_command(folder)}`, or leave page out"
        )


def unpack_archives(archives: Path, folder: Path) -> None:
    """Write the files that the page needs to `folder`. Raises NotebookError if that is not possible."""
    check_archives(archives)
    for package in PACKAGES:
        with tarfile.open(archives / package.archive) as archive:
            for source, name in package.files.items():
                content = archive.extractfile(f"package/{source}")
                assert content is not None, (
                    f"{package.archive} has another SHA-256 without {source}"
                )
                with atomic_write(folder / name) as file:
                    file.write(content.read())
