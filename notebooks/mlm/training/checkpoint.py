"""A run's checkpoints: written whole, and known to be as they were written.

`last.ckpt` and the one before, `previous.ckpt`; `sha256.json` vouches for both. It is written before
they change names, with the digests of the new one and the one before: a good one can be told from a
damaged one at any moment, whatever is pulled out.
"""

import contextlib
import shutil
import tempfile
import zipfile

import torch
from safetensors import SafetensorError

from mlm.env.files import move_into_place, read_checked_json, sha256_of, write_checked_json
from mlm.env.notebook import NotebookError

CHECKPOINT_NAMES = "last.ckpt", "previous.ckpt"
CALLBACK_STATE = (
    "Keeper"  # the callback's key in a checkpoint; old checkpoints have it, so it stays
)
CHECKSUMS = "sha256.json"
STAGING = "parts"  # the folder of what is half written; cleared when a run is opened

# written


def free_space(folder):
    """What is free on the disk of a folder, as text; whether the folder is still there."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free on the disk of {folder}"
    except OSError:
        return f"{folder} is no longer there"


@contextlib.contextmanager
def write_errors(what, folder, errors=(OSError, RuntimeError, SafetensorError)):
    """In this block something is written into a run's folder; torch and safetensors have own errors.

    Raises NotebookError, in one line that says how full the disk is, where that fails.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, NotebookError):
            raise
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0][:200]
        raise NotebookError(
            f"{what} could not be written ({reason}; {free_space(folder)}): what was saved before is "
            "kept: make room, then run this again"
        ) from None


@contextlib.contextmanager
def staging_folder(folder):
    """A new folder below `folder` for what is not whole yet; gone afterwards, with all that it holds."""
    parts = folder / STAGING
    parts.mkdir(parents=True, exist_ok=True)
    try:
        yield parts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


@contextlib.contextmanager
def temporary_files_in(folder):
    """In this block temporary files lie in `folder`: there Lightning stages what it saves."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def check_finite(path, step):
    """Raises NotebookError where a checkpoint has weights that are not finite, naming the first."""
    weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if bad:
        raise NotebookError(
            f"weights are no longer finite at step {step} ({bad[0]}): the last good checkpoint is "
            "kept; try a lower lr or precision='32'"
        )


def save_checkpoint(trainer, folder, good):
    """Write last.ckpt whole or not at all, the good one before it becoming previous.ckpt.

    `good` is (path, SHA-256) of the last good checkpoint in `folder`, None where there is none; returns
    that of the new one. It is written beside the last one, read back and checked, and only then takes
    its place.
    Raises NotebookError where it cannot be written or has weights that are not finite.
    """
    last, previous = (folder / name for name in CHECKPOINT_NAMES)
    step = trainer.global_step
    with write_errors(f"the checkpoint of step {step}", folder), staging_folder(folder) as parts:
        part = parts / last.name
        with temporary_files_in(parts):
            trainer.save_checkpoint(part)  # all processes meet here
        if trainer.is_global_zero:
            check_finite(part, step)
            new = last, sha256_of(part)
            known = [sha256 for _, sha256 in filter(None, (new, good))]
            write_checked_json(folder / CHECKSUMS, {"checkpoints": known})
            if good and good[0] == last:  # a damaged last.ckpt must not replace a good one
                last.replace(previous)
            move_into_place(part, last)
            good = new
        trainer.strategy.barrier()  # so nobody clears what another still writes
    return good


# read


def selected_weights(found):
    """The weights that a run hands on, of all that its checkpoint holds: the best where it keeps those."""
    return found.get("callbacks", {}).get(CALLBACK_STATE, {}).get("best", found["state_dict"])


def is_undamaged(path):
    """Whether a checkpoint agrees with the checksums that torch wrote into it."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except Exception:  # whatever stands in the file
        return False


def latest_good_checkpoint(folder):
    """(path, SHA-256) of the newest checkpoint in `folder` that is as it was written; None without any.

    Raises NotebookError where there are some and all of them are damaged.
    """
    there = [folder / name for name in CHECKPOINT_NAMES if (folder / name).exists()]
    known = (read_checked_json(folder / CHECKSUMS) or {}).get("checkpoints")
    if there and not known:
        print(
            f"{folder / CHECKSUMS} is missing or damaged: the checkpoints' own checksums are read"
        )
    found = []  # (how many are newer, path, SHA-256)
    for number, path in enumerate(there):
        with contextlib.suppress(OSError):
            sha256 = sha256_of(path)
            if known and sha256 in known:
                found.append((known.index(sha256), path, sha256))
            elif not known and is_undamaged(path):
                found.append((number, path, sha256))
        if found and min(found)[0] == 0:
            break
        if path not in [other for _, other, _ in found]:
            print(f"{path} is damaged: trying the one before")
    if found:
        return min(found)[1:]
    if there:
        raise NotebookError(
            f"{folder}: {' and '.join(path.name for path in there)} cannot be read, so this run cannot "
            "go on; to train anew, pass another run_name or resume='never'"
        )
    return None


def restore_checksums(folder, good):
    """Write the record of a checkpoint that was found good by its own checksums, if there is none."""
    if good and not (read_checked_json(folder / CHECKSUMS) or {}).get("checkpoints"):
        write_checked_json(folder / CHECKSUMS, {"checkpoints": [good[1]]})
