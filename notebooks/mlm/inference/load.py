"""Find a finished run, verify its files, load its weights."""

import atexit
import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from mlm.data.corpus import load_corpus, make_workdir
from mlm.data.tokenizer import load_tokenizer
from mlm.data.vocabulary import init_added_embeddings
from mlm.env.files import absolute_path
from mlm.env.notebook import NotebookError
from mlm.models.loading import load_model, quiet_transformers
from mlm.training.checkpoint import selected_weights
from mlm.training.results import check_files

FILES = "run.json saved.bin model/config.json model/model.safetensors model/tokenizer.json"


FIGURES = {  # of run.json
    "training": "steps tokens_seen",
    "before": "loss perplexity accuracy",
    "after": "loss perplexity accuracy",
    "baseline": "loss",
}


def read_results(path):
    """run.json as a dict; raises NotebookError where something is not there that is used of it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["parameters"]["model"], record["parameters"]["seed"]
        for part, names in FIGURES.items():
            for name in names.split():
                float(record[part][name])
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(
            f"{path} is damaged or not from 04_train.ipynb ({type(error).__name__}: {error}); run "
            "that again, or pass another run_name"
        ) from None
    return record


def find_run(workdir, run_name):
    """(folder, its run.json) of a finished run; (None, None) where none is named and none is there.

    Raises NotebookError where it is missing, in part or not from 04, naming the file.
    """
    workdir = absolute_path("workdir", workdir)
    folder = workdir / (run_name or "run")
    if not folder.is_dir():
        others = ", ".join(sorted(path.parent.name for path in workdir.glob("*/run.json")))
        if run_name:
            there = f"runs there: {others}" if others else "train it with 04_train.ipynb"
            raise NotebookError(f"run_name={run_name!r}: there is no folder {folder}; {there}")
        print(f"No run named 'run' in {workdir.name}/ (others there: {others or 'none'})")
        return None, None
    for name in FILES.split():
        if not (folder / name).is_file():
            raise NotebookError(
                f"{folder / name} is missing: the run was not finished or is copied in part; run "
                "04_train.ipynb again with the same parameters, or copy the whole folder"
            )
    record = read_results(folder / "run.json")
    check_files(folder)
    return folder, record


def describe_run(folder, record, model):
    """What a run says of itself, as text; without one, what is done instead."""
    if not record:
        return (
            f"We predict with {model!r} as it comes. Run 04_train.ipynb first to see what training "
            "does, or copy the whole folder of a run into workdir."
        )
    name, trained = record["parameters"]["model"], record["training"]
    before, after = record["before"]["loss"], record["after"]["loss"]
    text = (
        f"{folder.name}: {name}, {trained['steps']:,} steps, {trained['tokens_seen']:,} tokens, "
        f"held-out loss {before:.2f} before, {after:.2f} after"
    )
    if model != name:
        text += f"\nThe parameter model={model!r} is not needed: the run began with {name!r}."
    return text


def find_damaged_file(path):
    """The first file of a model's folder that cannot be read; `path` itself where there is none."""
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
def read_errors(path):
    """In this block a file or a model's folder is read, without bars.

    Raises NotebookError where that goes wrong, naming the file.
    """
    try:
        with quiet_transformers():
            yield
    except NotebookError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
        raise NotebookError(
            f"{find_damaged_file(path)} cannot be read ({type(error).__name__}: {reason}): it is truncated, or not from "
            "04_train.ipynb; copy it again, or train again"
        ) from None


def read_weights(path):
    """The state_dict in a file of torch.save; raises NotebookError where it is no such file."""
    with read_errors(path):
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return selected_weights(found) if found.get("state_dict") else found


class BertPred(nn.Module):
    """A model with its masked-LM head; called with a batch it gives the logits (B, T, V)."""

    def __init__(self, config):
        super().__init__()
        self.bert = AutoModelForMaskedLM.from_config(config)

    def forward(self, **batch):
        return self.bert(**batch).logits


def load_pred(path, config, make=BertPred):
    """A BertPred with the weights of this file; raises NotebookError where they do not fit.

    `config` is the folder of its config.json, `make` the class.
    """
    weights = read_weights(path)
    try:
        pred = make(AutoConfig.from_pretrained(config))
        pred.load_state_dict(weights)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NotebookError(
            f"{path} does not fit {config} ({reason} ...): they are not of one run; copy the whole "
            "folder of a run, or train again"
        ) from None
    return pred.eval()


def check_tied(path, bert):
    """Raises NotebookError where weights that are one in a model, `bert`, differ in its file: one is lost."""
    weights = read_weights(path)
    for name, same in bert.all_tied_weights_keys.items():
        if not torch.equal(weights[f"bert.{name}"], weights[f"bert.{same}"]):
            raise NotebookError(f"in {path} {name} and {same} differ: run 04_train.ipynb again")


def load_initial_model(record, tokenizer):
    """The model as a run's training began with it, in eval mode; None (and a line) where it is gone."""
    asked = record["parameters"]
    try:
        base = load_tokenizer(asked["model"], None) if asked.get("add_words") else tokenizer
        bert = load_model(asked["model"], base, max_len=0, seed=asked["seed"])
        init_added_embeddings(bert, base, tokenizer)
        return bert.eval()
    except NotebookError as error:
        print(f"No comparison with the model before training: {error}")
        return None


def save_untrained(model, corpus, workdir, seed):
    """A folder that holds `model` as it comes in the forms that 04 writes; gone when Python ends.

    For "scratch:" the vocabulary is learned from the corpus, which is kept in `workdir`.
    """
    scratch = model.startswith("scratch:")
    text = load_corpus(corpus, make_workdir(workdir)) / "train.txt" if scratch else None
    tokenizer = load_tokenizer(model, text)
    bert = load_model(model, tokenizer, max_len=0, seed=seed)  # `encode` looks at the length
    folder = Path(tempfile.mkdtemp(prefix="mlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "checkpoints").mkdir()
    state = {f"bert.{name}": weight for name, weight in bert.state_dict().items()}
    torch.save(state, folder / "saved.bin")
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    with quiet_transformers():
        bert.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder
