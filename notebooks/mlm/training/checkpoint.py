"""A run's checkpoint files: written atomically, verified, the previous one kept.

The files are `last.ckpt` and `previous.ckpt`. `sha256.json` stores their SHA-256 sums, the newest first.
It is written before the files are renamed. So a good checkpoint can be told from a damaged one at any
moment, even after a power failure.
"""

import contextlib
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from safetensors import SafetensorError

from mlm.env.files import move_into_place, read_checked_json, sha256_of, write_checked_json
from mlm.env.notebook import NotebookError
from mlm.training.run_files import LAST, PREVIOUS

CHECKSUMS = "sha256.json"
STAGING = "parts"  # the folder of files that are being written; emptied when a run is opened
TORCH_WRITE_ERROR = re.compile(  # a RuntimeError of torch that is a failed write
    "PytorchStreamWriter|inline_container|iostream error|cannot be opened|Parent directory .* does not exist"
)
UNSUPPORTED = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")  # torch: an object in a file


class StoredCheckpoint(NamedTuple):
    """A good checkpoint on disk."""

    path: Path
    sha256: str


# write


def free_space(folder: Path) -> str:
    """The free space on the disk of a folder, as text."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free on the disk of {folder}"
    except OSError:
        return f"{folder} is no longer there"


def is_write_error(error: Exception) -> bool:
    """Whether an error says that a file could not be written, and not that its content is wrong."""
    if isinstance(error, RuntimeError):
        return bool(TORCH_WRITE_ERROR.search(str(error)))
    return isinstance(error, OSError | SafetensorError)


@contextlib.contextmanager
def write_errors(what: str, folder: Path) -> Iterator[None]:
    """Context manager that turns a failed write into a NotebookError with the free space on the disk."""
    try:
        yield
    except Exception as error:
        if not is_write_error(error):
            raise
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0][:200]
        raise NotebookError(
            f"{what} could not be written ({reason}; {free_space(folder)}): everything saved before is "
            "kept: make room, then run this again"
        ) from None


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Context manager: a folder below `folder` for unfinished files. It is deleted afterwards."""
    staging = folder / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Context manager: temporary files are created in `folder`. Lightning stages checkpoints in one."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def check_hyperparameters(module: pl.LightningModule) -> None:
    """Raises NotebookError if every checkpoint of an edited module would contain an object (see `check_content`)."""
    if models := [name for name, v in module.hparams.items() if isinstance(v, torch.nn.Module)]:
        raise NotebookError(
            f"self.save_hyperparameters() would put {models[0]} into checkpoints, and these must only have "
            f"tensors and plain values: remove it, or pass it ignore={models}"
        )


def check_content(path: Path, step: int) -> None:
    """Raises NotebookError if a checkpoint has an object or weights that are not finite, naming the first.

    An object, that is, something else than tensors and plain values, comes from an edit or an added callback.
    The checkpoint could not be loaded, because code would run.
    """
    try:
        weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    except pickle.UnpicklingError as error:
        found = UNSUPPORTED.search(str(error))
        if not found:
            raise
        raise NotebookError(
            f"the checkpoint of step {step} contains {found[1]}, and it must only have tensors and plain values: "
            "change what MaskedLM or an added callback stores; the last good checkpoint is kept"
        ) from None
    bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if bad:
        raise NotebookError(
            f"weights are no longer finite at step {step} ({bad[0]}): the last good checkpoint is "
            "kept; try a lower lr or precision='32'"
        )


def save_checkpoint(
    trainer: pl.Trainer, folder: Path, good: StoredCheckpoint | None
) -> StoredCheckpoint | None:
    """Write last.ckpt atomically. The last good checkpoint, `good`, becomes previous.ckpt.

    The new file is written beside the last one, read back and checked, and only then takes its place.
    Returns the new checkpoint; in other processes than the first, `good`. Raises NotebookError if it
    cannot be written, cannot be loaded or has weights that are not finite.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    step = trainer.global_step
    with write_errors(f"the checkpoint of step {step}", folder), staging_folder(folder) as staging:
        staged = staging / LAST
        with temporary_files_in(staging):
            trainer.save_checkpoint(staged)  # all processes take part
        if trainer.is_global_zero:
            check_content(staged, step)
            new = StoredCheckpoint(last, sha256_of(staged))
            sums = [new.sha256, good.sha256] if good else [new.sha256]
            write_checked_json(folder / CHECKSUMS, {"checkpoints": sums})
            if good and good.path == last:  # a damaged last.ckpt must not replace a good one
                last.replace(previous)
            move_into_place(staged, last)
            good = new
        trainer.strategy.barrier()  # no process deletes files that another one is writing
    return good


# read


def is_undamaged(path: Path) -> bool:
    """Whether a checkpoint agrees with the checksums (CRC-32) that torch stored in it."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # a damaged file can raise anything
        return False


def latest_good_checkpoint(folder: Path) -> StoredCheckpoint | None:
    """The newest undamaged checkpoint in `folder`; None if there is no checkpoint at all.

    Raises NotebookError if there are checkpoints and all of them are damaged.
    """
    paths = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    sums = stored_checksums(folder)
    if paths and not sums:
        print(
            f"{folder / CHECKSUMS} is missing or damaged: checking the checkpoints' own checksums"
        )
    good = []  # (0: the newest or 1: the one before, checkpoint)
    for number, path in enumerate(paths):
        sha256 = None
        with contextlib.suppress(OSError):
            sha256 = sha256_of(path)
        if sha256 and sha256 in sums:
            good.append((sums.index(sha256), StoredCheckpoint(path, sha256)))
        elif sha256 and not sums and is_undamaged(path):
            good.append((number, StoredCheckpoint(path, sha256)))
        elif not good:
            print(f"{path} is damaged: trying the one before")
        if good and min(good)[0] == 0:
            break
    if good:
        return min(good)[1]
    if paths:
        raise NotebookError(
            f"{folder}: {' and '.join(path.name for path in paths)} cannot be read, so this run cannot "
            "be resumed; to train from the start, pass another run_name or resume='never'"
        )
    return None


def stored_checksums(folder: Path) -> list[str]:
    """The SHA-256 sums of the checkpoints in a folder, the newest first; [] if missing or damaged."""
    return (read_checked_json(folder / CHECKSUMS) or {}).get("checkpoints") or []


def restore_checksums(folder: Path, good: StoredCheckpoint | None) -> None:
    """Write the checksums file again if it is lost and a checkpoint was found good without it."""
    if good and not stored_checksums(folder):
        write_checked_json(folder / CHECKSUMS, {"checkpoints": [good.sha256]})
