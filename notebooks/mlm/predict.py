"""What a run left: found, loaded so that nothing is lost unseen, asked for words, asked for scores."""

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

from .checkpoint import kept_weights
from .corpus import load_corpus, make_workdir
from .files import full_path
from .heads import hidden_states, most_tokens, scores
from .model import load_bert, quietly
from .notebook import NotebookError
from .record import check_files
from .tokens import load_tokenizer
from .words import embed_own_words

# the run

FILES = "run.json saved.bin model/config.json model/model.safetensors model/tokenizer.json"
FIGURES = {  # of run.json
    "training": "steps tokens_seen",
    "before": "loss perplexity accuracy",
    "after": "loss perplexity accuracy",
    "baseline": "loss",
}


def read_record(path):
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
    workdir = full_path("workdir", workdir)
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
    record = read_record(folder / "run.json")
    check_files(folder)
    return folder, record


def run_line(folder, record, model):
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


# loading


def damaged_file(path):
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
def reading(path):
    """In this block a file or a model's folder is read, without bars.

    Raises NotebookError where that goes wrong, naming the file.
    """
    try:
        with quietly():
            yield
    except NotebookError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
        raise NotebookError(
            f"{damaged_file(path)} cannot be read ({type(error).__name__}: {reason}): it is truncated, or not from "
            "04_train.ipynb; copy it again, or train again"
        ) from None


def read_weights(path):
    """The state_dict in a file of torch.save; raises NotebookError where it is no such file."""
    with reading(path):
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return kept_weights(found) if found.get("state_dict") else found


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


def load_before(record, tokenizer):
    """The model as a run's training began with it, in eval mode; None (and a line) where it is gone."""
    asked = record["parameters"]
    try:
        base = load_tokenizer(asked["model"], None) if asked.get("add_words") else tokenizer
        bert = load_bert(asked["model"], base, max_len=0, seed=asked["seed"])
        embed_own_words(bert, base, tokenizer)
        return bert.eval()
    except NotebookError as error:
        print(f"No comparison with the model before training: {error}")
        return None


def stand_in(model, corpus, workdir, seed):
    """A folder that holds `model` as it comes in the forms that 04 writes; gone when Python ends.

    For "scratch:" the vocabulary is learned from the corpus, which is kept in `workdir`.
    """
    scratch = model.startswith("scratch:")
    text = load_corpus(corpus, make_workdir(workdir)) / "train.txt" if scratch else None
    tokenizer = load_tokenizer(model, text)
    bert = load_bert(model, tokenizer, max_len=0, seed=seed)  # `encode` looks at the length
    folder = Path(tempfile.mkdtemp(prefix="mlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "checkpoints").mkdir()
    state = {f"bert.{name}": weight for name, weight in bert.state_dict().items()}
    torch.save(state, folder / "saved.bin")
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    with quietly():
        bert.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


# words


def with_mask(tokenizer, sentence):
    """A sentence with the tokenizer's own mask for [MASK]; the space before a word is part of it."""
    mask = tokenizer.mask_token
    return sentence.replace(" [MASK]", mask).replace("[MASK]", mask)


def encode(bert, tokenizer, sentence):
    """A batch of one sentence; raises NotebookError where it is longer than the model's positions."""
    batch = tokenizer(with_mask(tokenizer, sentence), return_tensors="pt")
    tokens, room = batch["input_ids"].shape[1], most_tokens(bert.config)
    if tokens > room:
        raise NotebookError(
            f"the sentence has {tokens} tokens, [CLS] and [SEP] included, and this model takes {room}: "
            "shorten it, or cut it in two"
        )
    return batch


@torch.no_grad()
def fill(bert, tokenizer, sentence, top_k):
    """The guesses for each [MASK]: a list of lists of (token, probability), the likeliest first."""
    batch = encode(bert, tokenizer, sentence)
    masks = batch["input_ids"] == tokenizer.mask_token_id  # (1, T)
    probabilities = bert(**batch).logits[masks].softmax(-1)  # (masks, V)
    likeliest, ids = probabilities.topk(min(top_k, len(tokenizer)))
    return [
        list(zip(tokenizer.convert_ids_to_tokens(row), p))
        for row, p in zip(ids.tolist(), likeliest.tolist())
    ]


def pipeline_guesses(fill_mask, sentence, top_k):
    """What transformers' pipeline "fill-mask" answers, in the form of `fill`."""
    sentence = with_mask(fill_mask.tokenizer, sentence)
    answers = fill_mask(sentence, top_k=min(top_k, len(fill_mask.tokenizer)))
    if isinstance(answers[0], dict):  # one mask: a list of guesses, not a list of lists
        answers = [answers]
    name = fill_mask.tokenizer.convert_ids_to_tokens
    return [[(name(guess["token"]), guess["score"]) for guess in row] for row in answers]


def same_guesses(ours, theirs):
    """Whether two lists of guesses have the same tokens and, but for rounding, probabilities."""

    def split(guesses):
        tokens = [[token for token, _ in row] for row in guesses]
        return tokens, torch.tensor([[p for _, p in row] for row in guesses])

    (tokens, p), (their_tokens, their_p) = split(ours), split(theirs)
    return tokens == their_tokens and torch.allclose(p, their_p, atol=1e-6)


# scores


@torch.no_grad()
def surprises(bert, tokenizer, sentence):
    """(tokens, -log probability of each given all others), in nats."""
    ids, nats = encode(bert, tokenizer, sentence)["input_ids"], []  # (1, T)
    inside = torch.arange(1, ids.shape[1] - 1)  # without [CLS] and [SEP]
    for places in inside.split(64):  # P at a time, or a long sentence would fill the memory
        rows = torch.arange(len(places))
        copies = ids.repeat(len(places), 1)  # (P, T)
        copies[rows, places] = tokenizer.mask_token_id
        hidden = hidden_states(bert, copies)[rows, places]  # (P, H)
        nats.append(-scores(bert, hidden).log_softmax(-1)[rows, ids[0, places]])
    return tokenizer.convert_ids_to_tokens(ids[0, 1:-1]), torch.cat(nats)


def pseudo_perplexity(bert, tokenizer, sentence):
    """Among how many equally likely words the model hesitates, on average over the tokens."""
    return float(surprises(bert, tokenizer, sentence)[1].mean().exp())
