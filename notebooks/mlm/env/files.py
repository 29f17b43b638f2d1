"""Files that are complete or absent, and SHA-256 sums that detect damage.

A file is written under a temporary name, synced to disk, then renamed.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from mlm.env.notebook import NotebookError
from mlm.env.secrets import shown_value


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# paths


def short_repr(value: Any, max_length: int = 200) -> str:
    """A value given by the user, without secrets, quoted, in one line of at most `max_length` characters."""
    text = repr(str(shown_value(value if isinstance(value, list) else str(value))))
    return text if len(text) <= max_length else f"{text[: max_length // 2]}...'"


def absolute_path(name: str, value: str | Path) -> Path:
    """The absolute path that the parameter `name` gives; ~ is the home folder. It need not exist.

    Raises NotebookError if `value` cannot be a path.
    """
    try:
        path = Path(value).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
        return path
    except FileNotFoundError:
        raise NotebookError(
            f"{name}={short_repr(value)} cannot be found, because the folder that this notebook runs in was deleted: "
            "restart the kernel, or pass an absolute path"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(": ")[0]
        raise NotebookError(
            f"{name}={short_repr(value)} is not a path ({reason}); pass the path of a file or folder"
        ) from None


PATH_KINDS = {
    stat.S_IFREG: "is a file",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def describe_path(path: Path) -> str:
    """What a path points to, as the end of a sentence: "is a folder", "does not exist"."""
    try:
        return PATH_KINDS[stat.S_IFMT(path.stat().st_mode)]
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


# atomic writes

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, over quota, file too large


def write_error(path: Path, error: OSError) -> NotebookError:
    """A NotebookError that names the file that could not be written and the reason."""
    if error.errno in DISK_FULL:
        return NotebookError(
            f"{path} could not be written: the disk of {path.parent} is full; earlier files are kept: "
            "make room, then run this again"
        )
    return NotebookError(f"{path} could not be written ({error.strerror or error})")


def partial_path(path: Path) -> Path:
    """The temporary name under which this process writes `path`; no other process uses it."""
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def move_into_place(part: Path, path: Path) -> None:
    """Rename a complete file. File and name survive a power cut: both are synced to disk."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    with contextlib.suppress(OSError):  # not every system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Context manager that yields a file to write to and names it `path` once it is complete.

    An error in the block leaves `path` as it was. `options` go to `open`. Raises NotebookError if the
    file cannot be written.
    """
    part = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, mode, **options) as file:
            yield file
        move_into_place(part, path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, with \\n at the ends of lines."""
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def remove_stale_parts(folder: Path) -> None:
    """Remove incomplete files below `folder` whose process on this machine no longer runs."""
    for part in folder.rglob(f"*.{socket.gethostname()}-*.part"):
        pid = part.name.rsplit("-", 1)[1].removesuffix(".part")
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            part.unlink(missing_ok=True)
        except OSError:
            continue  # the process runs and belongs to another user


# JSON that detects damage


def json_digest(content: Any) -> str:
    """The SHA-256 of a JSON value, in hexadecimal; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_checked_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dict as JSON, with its `json_digest` as "seal". Raises ValueError on NaN or infinity."""
    text = json.dumps({**content, "seal": json_digest(content)}, indent=1, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that others wrote; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """The dict that `write_checked_json` wrote; None if the file is missing or was changed."""
    content = read_json(path)
    seal = content.pop("seal", None)
    return content if seal == json_digest(content) else None


def sha256_sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: SHA-256} of files below `folder`."""
    return {name: sha256_of(folder / name) for name in names}


def first_damaged(folder: Path, sums: dict[str, str]) -> str | None:
    """The first name in `sums`, {name: SHA-256}, whose file is missing or changed; else None."""
    for name, sha256 in sums.items():
        try:
            if sha256_of(folder / name) != sha256:
                return name
        except OSError:
            return name
    return None
