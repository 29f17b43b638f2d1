"""The validation set of a run: its lines, its masks, and a model's loss on it.

The masked tokens are those that the evaluation of the run masks, so they depend on the text, the tokenizer
and the seed alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.corpus import SPLIT_FILES, is_intact
from mlm.data.dataset import MaskedLMDataset
from mlm.env.files import absolute_path
from mlm.models.encoders import supports_packing
from mlm.models.loading import init_head_bias
from mlm.training.evaluation import evaluate, validation_batches
from mlm.training.module import MaskedLM


def find_text(
    sha256: str, workdir: str | Path, what: str, names: Sequence[str] = SPLIT_FILES
) -> Path | None:
    """The folder in workdir with this text. Returns None and prints that `what` is not there.

    names: the files that the folder has.
    """
    for folder in absolute_path("workdir", workdir).glob("corpus/*"):
        if is_intact(folder, sha256, names):
            return folder
    print(f"The {what} of this run is not in workdir.")
    return None


def find_corpus(results: dict[str, Any], workdir: str | Path) -> Path | None:
    """The folder with the corpus of a run. Returns None and prints why if it is not in `workdir`."""
    return find_text(results["data"]["sha256"], workdir, "corpus")


def find_training_text(results: dict[str, Any], workdir: str | Path) -> Path | None:
    """The file with all lines that a run trained on: its corpus and, with `replay`, general text.

    Returns None and prints why if it is not in `workdir`.
    """
    if replay := results["data"].get("replay"):
        folder = find_text(replay["sha256"], workdir, "replayed text", SPLIT_FILES[:1])
    else:
        folder = find_corpus(results, workdir)
    return folder / SPLIT_FILES[0] if folder else None


def load_split(
    folder: Path, split: str, tokenizer: PreTrainedTokenizerBase, results: dict[str, Any]
) -> MaskedLMDataset:
    """The lines of "train" or "valid" of a run's corpus."""
    return MaskedLMDataset(folder / f"{split}.txt", tokenizer, results["parameters"]["max_len"])


def validation_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    folder: Path,
) -> float:
    """The loss of a model on the validation set of a run, with the run's masks, in nats per masked token.

    folder: of the run's corpus.
    """
    valid = load_split(folder, "valid", tokenizer, results)
    seed, pack = results["parameters"]["seed"], supports_packing(model.config)
    module = MaskedLM(model, {}).train(model.training)  # the mode that evaluate restores
    return evaluate(module, validation_batches(valid, seed, pack))["loss"]


def is_initial_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> bool:
    """Whether a rebuilt model is the one that training started from; prints the reason.

    It must have the validation loss that 04 stored, up to rounding. An MLM head that the model's files
    lack first gets the bias that 04 gave it. If the run's corpus is not in `workdir`, the model counts
    as the right one.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        print("model before training: not verified, because the run's corpus is not in workdir")
        return True
    if getattr(model, "head_was_missing", False):
        parameters = results["parameters"]  # not `load_split`: the examples of training count
        options = parameters["max_len"], parameters.get("examples", "line")
        init_head_bias(model, MaskedLMDataset(folder / "train.txt", tokenizer, *options))
    rebuilt, stored = validation_loss(model, tokenizer, results, folder), results["before"]["loss"]
    hardware = results.get("hardware", {})
    is_exact = (hardware.get("device"), hardware.get("precision")) == ("cpu", "torch.float32")
    if math.isclose(rebuilt, stored, rel_tol=1e-4 if is_exact else 0.01):
        print(f"model before training: validation loss {rebuilt:.3f}, the same as 04 stored")
        return True
    print(
        f"no comparison with the model before training: its validation loss is {rebuilt:.3f}, but 04 stored "
        f"{stored:.3f}; MaskedLM was edited for the run, or the files that the model is loaded from changed after it"
    )
    return False
