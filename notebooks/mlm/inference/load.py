"""Find a finished run, verify its files, load its weights."""

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mlm.data.corpus import load_corpus, make_workdir
from mlm.data.formats import DEFAULT_COLUMN
from mlm.data.tokenizer import learns_vocabulary, load_tokenizer, save_tokenizer
from mlm.data.vocabulary import init_added_embeddings
from mlm.env.files import absolute_path
from mlm.env.names import FOLDER_DIGEST, public_name, stored_model, text_name
from mlm.env.notebook import NotebookError
from mlm.models.loading import load_model, quiet_transformers
from mlm.training.run_files import check_files, selected_weights

REQUIRED_FILES = (
    "run.json",
    "saved.bin",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer_config.json",
)
REQUIRED_NUMBERS = {  # the parts of run.json that 05 shows
    "training": ("steps", "tokens_seen"),
    "before": ("loss", "perplexity", "accuracy"),
    "after": ("loss", "perplexity", "accuracy"),
    "baseline": ("loss",),
}

# find a run


def read_results(path: Path) -> dict[str, Any]:
    """Read run.json. Raises NotebookError if a value that 05 needs is missing or not a number."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["parameters"]["model"], results["parameters"]["seed"]
        for part, names in REQUIRED_NUMBERS.items():
            for name in names:
                float(results[part][name])
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(
            f"{path} is damaged or not from 04_train.ipynb ({type(error).__name__}: {error}): run "
            "04 again, or pass another run_name"
        ) from None
    return results


def find_run(
    workdir: str | Path, run_name: str | None
) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """The folder of a finished run and its results (run.json), after checking that it is complete.

    `run_name` None means the run named "run", or (None, None) if there is none. Raises NotebookError if
    a named run does not exist, or if a file is missing, damaged or not from 04.
    """
    workdir = absolute_path("workdir", workdir)
    folder = workdir / (run_name or "run")
    if not folder.is_dir():
        others = ", ".join(sorted(path.parent.name for path in workdir.glob("*/run.json")))
        if run_name:
            hint = f"existing runs: {others}" if others else "train it with 04_train.ipynb"
            raise NotebookError(f"run_name={run_name!r}: there is no folder {folder}; {hint}")
        print(f"No run named 'run' in {workdir.name}/ (other runs: {others or 'none'})")
        return None, None
    for name in REQUIRED_FILES:
        if not (folder / name).is_file():
            raise NotebookError(
                f"{folder / name} is missing: the run is unfinished or was copied only in part; run "
                "04_train.ipynb again with the same parameters, or copy the whole folder"
            )
    results = read_results(folder / "run.json")
    check_files(folder)
    return folder, results


def describe_run(folder: Path | None, results: dict[str, Any] | None, model: str) -> str:
    """What was trained, with what result; without a run, which untrained model is used instead."""
    if folder is None or results is None:
        return (
            f"Predictions are from {model!r} without further training. Run 04_train.ipynb first to see "
            "what training changes, or copy the whole folder of a run into workdir."
        )
    name, training = results["parameters"]["model"], results["training"]
    before, after = results["before"]["loss"], results["after"]["loss"]
    shown_name = public_name(name)
    text = (
        f"{folder.name}: {shown_name} on {text_name(results['data']['source'])}, {training['steps']:,} steps, "
        f"{training['tokens_seen']:,} tokens seen, validation loss {before:.2f} before training, {after:.2f} after"
    )
    if name not in (model, stored_model(model)):  # earlier versions stored the path
        text += f"\nThe parameter model={model!r} is ignored: this run trained {shown_name!r}."
    return text


# load its weights


def find_damaged_file(path: Path) -> Path:
    """The first unreadable file of a model folder, or `path` itself if all can be read."""
    for file in sorted(path.glob("*")):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except Exception:
            return file
    return path


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Context manager that turns errors while reading `path` into a NotebookError with the file's name.

    `path` is a file or the folder of a model. Errors that say nothing about the file are raised as they are.
    Progress bars of transformers are off.
    """
    try:
        with quiet_transformers():
            yield
    except (NotebookError, MemoryError, ImportError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
        raise NotebookError(
            f"{find_damaged_file(path)} cannot be read ({type(error).__name__}: {reason}): it is "
            "truncated, or not from 04_train.ipynb; copy it again, or train again"
        ) from None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state_dict in a file written by torch.save: saved.bin or a Lightning checkpoint.

    Raises NotebookError if the file cannot be read or contains anything else than tensors.
    """
    with read_errors(path):
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return selected_weights(contents) if contents.get("state_dict") else contents


def load_pred(path: Path, config: Path, module_class: type[nn.Module]) -> Any:
    """A module of class `module_class` with the weights in `path`, in eval mode.

    `config` is the folder with config.json. Raises NotebookError if the weights do not fit it. An error of
    the class, which may be a reader's, is raised as it is.
    """
    weights = read_weights(path)
    with fitting_errors(path, config, module_class):
        bert_config = AutoConfig.from_pretrained(config)
    module = module_class(bert_config)
    with fitting_errors(path, config, module_class):
        module.load_state_dict(weights)
    return module.eval()


@contextlib.contextmanager
def fitting_errors(path: Path, config: Path, module_class: type[nn.Module]) -> Iterator[None]:
    """Context manager: weights in `path` that do not fit a class or `config` are an error of one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NotebookError(
            f"{path} does not fit {config} ({reason} ...): the files are from different runs; copy the "
            f"whole folder of a run, or train again. But if you edited {module_class.__name__}, or MaskedLM in 04, "
            "both need the same layers under the same names"
        ) from None


def check_tied(path: Path, model: PreTrainedModel) -> None:
    """Check that two tensors that `model` ties (shares) are equal in the file `path`.

    Raises NotebookError if they differ: loading would silently drop one of them.
    """
    weights = read_weights(path)
    for name, tied_to in model.all_tied_weights_keys.items():
        if not torch.equal(weights[f"bert.{name}"], weights[f"bert.{tied_to}"]):
            raise NotebookError(
                f"{path}: the tied weights {name} and {tied_to} differ: run 04_train.ipynb again"
            )


# models to compare with


def load_initial_model(
    results: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model: str
) -> PreTrainedModel | None:
    """The model before training, in eval mode.

    Random weights are drawn again from the run's seed. If training started from a local folder,
    `model` must be that folder: run.json has no paths. Returns None and prints why if the model that
    training started from is not available.
    """
    parameters = dict(results["parameters"])
    if stored_model(model) == parameters["model"]:
        parameters["model"] = model
    elif FOLDER_DIGEST.search(parameters["model"]):
        print(
            f"No comparison with the model before training: it was the folder "
            f"{public_name(parameters['model'])!r}; to compare, set model to its path in the parameters"
        )
        return None
    try:
        original_tokenizer = tokenizer
        if parameters.get("add_words"):  # the run's tokenizer has more tokens than the model's
            original_tokenizer = load_tokenizer(parameters["model"], None)
        initial = load_model(
            parameters["model"],
            original_tokenizer,
            parameters.get("max_len", 0),
            seed=parameters["seed"],
        )
        init_added_embeddings(initial, original_tokenizer, tokenizer)
        return initial.eval()
    except NotebookError as error:
        print(f"No comparison with the model before training: {error}")
        return None


def save_untrained(
    model: str,
    corpus: str | list[str],
    workdir: str | Path,
    seed: int,
    vocabulary: str | None = None,
    column: str = DEFAULT_COLUMN,
    encoding: str | None = None,
) -> Path:
    """A temporary folder with `model`, not trained further, in the forms that 04 writes.

    It is removed when Python exits. A "scratch:" model may need a vocabulary: it is learned from the
    corpus, which is stored in `workdir`; `vocabulary` says which kind (`load_tokenizer`). `column` and
    `encoding`: see `load_corpus`.
    """
    text = None
    if learns_vocabulary(model, vocabulary):
        text = load_corpus(corpus, make_workdir(workdir), column, encoding=encoding) / "train.txt"
    tokenizer = load_tokenizer(model, text, vocabulary)
    untrained = load_model(model, tokenizer, max_len=0, seed=seed)  # `encode` checks the length
    folder = Path(tempfile.mkdtemp(prefix="mlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "checkpoints").mkdir()
    weights = {f"bert.{name}": weight for name, weight in untrained.state_dict().items()}
    torch.save(weights, folder / "saved.bin")
    torch.save({"state_dict": weights}, folder / "checkpoints" / "last.ckpt")
    with quiet_transformers():
        untrained.save_pretrained(folder / "model")
    save_tokenizer(tokenizer, folder / "model")
    return folder
