"""The files of a run: their names, which weights of a checkpoint count, and whether all are as they were written.

This module imports nothing that trains, so that notebooks which use a model need not embed it.
"""

from pathlib import Path
from typing import Any

from mlm.env.files import first_damaged, read_checked_json
from mlm.env.notebook import NotebookError

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # in checkpoints/
CHECKPOINT = f"checkpoints/{LAST}"
# The key of CheckpointingLogger's state in a checkpoint: a former class name, kept for old checkpoints.
CALLBACK_STATE = "Keeper"


def selected_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights that a run keeps, from the content of a checkpoint: the best ones, if stored."""
    state = checkpoint.get("callbacks", {}).get(CALLBACK_STATE, {})
    return state.get("best", checkpoint["state_dict"])


def output_files(folder: Path) -> list[str]:
    """The names of the files whose SHA-256 is in run.json, without the checkpoint, sorted."""
    model = [f"model/{path.name}" for path in (folder / "model").glob("*") if path.is_file()]
    return sorted(["logs/metrics.csv", "saved.bin", *model])


def check_files(folder: Path) -> None:
    """Raises NotebookError if a file of a finished run is damaged: its SHA-256 is not the one in run.json.

    The checkpoint may be missing: it is not needed to predict.
    """
    results = read_checked_json(folder / "run.json")
    sums = dict(results.get("files", {})) if results else {}
    if not (folder / CHECKPOINT).exists():
        sums.pop(CHECKPOINT, None)
    damaged = first_damaged(folder, sums) if sums else "run.json"
    if damaged:
        raise NotebookError(
            f"{folder / damaged} is not as it was written: run 04_train.ipynb again with the same "
            "parameters, it rebuilds the file from the checkpoint; or copy the whole folder again"
        )
