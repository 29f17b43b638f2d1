"""What is left of a run: the model, twice, and run.json, which says what was run with what result."""

import json
import math
import platform
import shutil

import torch
from transformers.utils import logging as transformers_logging

from .card import write_card
from .checkpoint import staged, writing
from .claim import leave, main_process
from .files import damaged, digests, read_record, seal, take_name
from .files import write_record as write_sealed
from .journal import write_metrics
from .notebook import NotebookError, installed_version
from .optimizer import RECIPE
from .peak import device_peak, flops_a_token

CHECKPOINT = "checkpoints/last.ckpt"


def written_record(run):
    """run.json, where it was written with the very checkpoint that the run has now; else None."""
    record = read_record(run.folder / "run.json") or {}
    made_with = record.get("files", {}).get(CHECKPOINT)
    return record if run.good and made_with == run.good[1] else None


def outputs(folder):
    """The names of the files that a run's record vouches for, besides its checkpoint, sorted."""
    model = [f"model/{path.name}" for path in (folder / "model").glob("*")]
    return sorted(["logs/metrics.csv", "saved.bin", *model])


def save_model(module, tokenizer, run):
    """Write saved.bin, a plain state_dict, and model/ (weights in safetensors, config, tokenizer).

    What a finished run has left whole stays untouched; what is damaged is made anew.
    Returns whether saved.bin, read back, holds the very weights; True where another process writes.
    Raises NotebookError where the run is not finished or the disk is full.
    """
    run.check_finished()
    if not main_process():
        return True
    folder, record = run.folder, written_record(run)
    vouched = {k: v for k, v in record["files"].items() if k != CHECKPOINT} if record else {}
    bad = damaged(folder, vouched)
    run.untouched = record is not None and bad is None
    if bad:
        print(f"{folder / bad} is damaged or missing: made anew from the checkpoint")
    if not run.untouched:
        with writing("saved.bin and model/", folder), staged(folder) as parts:
            write_outputs(module, tokenizer, parts)
            for part in sorted(path for path in parts.rglob("*") if path.is_file()):
                path = folder / part.relative_to(parts)
                path.parent.mkdir(exist_ok=True)
                take_name(part, path)
        write_metrics(folder, run.state["history"])
    saved = torch.load(folder / "saved.bin", weights_only=True, mmap=True)
    return all(torch.equal(saved[name], weight) for name, weight in module.state_dict().items())


def write_outputs(module, tokenizer, folder):
    """Write saved.bin and model/ into a folder."""
    transformers_logging.disable_progress_bar()  # one small file needs no bar
    torch.save(module.state_dict(), folder / "saved.bin")
    module.bert.save_pretrained(folder / "model")
    try:
        tokenizer.save_pretrained(folder / "model")
    except Exception as error:
        if type(error) is Exception:  # tokenizers raise it bare, where the disk is full for one
            raise OSError(str(error)) from None
        raise
    for weights in (folder / "model").glob("*.safetensors"):
        shutil.copymode(folder / "saved.bin", weights)  # safetensors are their owner's alone


def tokenizer_digest(tokenizer):
    """The SHA-256 of all that a tokenizer does, but for how it was last asked to cut and to pad."""
    does = json.loads(tokenizer.backend_tokenizer.to_str())
    return seal({k: v for k, v in does.items() if k not in ("truncation", "padding")})


def run_settings(parameters, recipe, about_corpus, tokenizer, device, total_steps):
    """What two runs must have in common to be one, a dict of plain values.

    `parameters` are the notebook's, with what was chosen for `batch_size` and `compile`, `recipe` is what
    `choose_recipe` chose, `device` what `trainer_arguments` found.
    """
    same = ["model", "add_words", "max_len", "examples", "batch_size", "accumulate", "masking"]
    same += ["replace", "seed", "keep", "evaluations", "patience", "compile"]
    return {
        **{name: parameters[name] for name in same},
        **recipe,
        "corpus_sha256": about_corpus["sha256"],
        "processes": device["processes"] * parameters["num_nodes"],
        "total_steps": total_steps,
        "device": device["kind"],
        "dtype": str(device["dtype"]),
        "vocab_size": len(tokenizer),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
    }


ENOUGH = 2000  # steps after which a narrow model from scratch has left word frequencies behind
MOST_EPOCHS = 40  # more of them teach a text by heart
MARGIN = 0.3  # nats below the unigram baseline: clearly more than word frequencies
RISE = 0.1  # nats by which the held-out loss may rise again
PRETRAINED = 'fine-tune a pretrained one (model="bert-base-uncased")'


def verdict(measured, baseline, scratch, epochs):
    """What a run's losses mean, as {"nats_below_baseline", "learned", "text"}.

    `measured`: (step, held-out loss in nats) of each measurement, the first before training;
    `scratch`: random weights; `epochs`: how often the run has seen the text.
    """
    (_, before), (steps, after) = measured[0], measured[-1]
    best_step, best = min(measured, key=lambda row: row[1])
    below, advice = baseline - after, "pass more epochs, or more text"
    if scratch:
        more = math.ceil(ENOUGH / max(steps, 1) * epochs)
        advice = f"the text is too short for a model from scratch: {PRETRAINED}"
        if more <= MOST_EPOCHS:
            advice = f"pass about {more} epochs, or {PRETRAINED}"
    if after > best + RISE and best_step > 0:
        text = (
            f"it learns the text by heart: the held-out loss was {best:.2f} at step {best_step:,} and "
            f"rose to {after:.2f} (word frequencies: {baseline:.2f}); pass about "
            f"{max(1, round(epochs * best_step / steps))} epochs, more text, or {PRETRAINED}"
        )
    elif after > before:
        text = (
            f"WORSE than before training ({before:.2f} before, {after:.2f} after): the learning rate is "
            "too high for this model; leave lr to the recipe, or pass a lower one"
        )
    elif below < MARGIN:
        text = (
            f"no more than word frequencies ({after:.2f} against {baseline:.2f} nats): it does not read "
            f"the context yet; {advice}"
        )
    else:
        text = (
            f"it reads the context: {below:.2f} nats better than word frequencies, which hesitate among "
            f"{math.exp(baseline):,.0f} words where the model does among {math.exp(after):,.0f}"
        )
    return {"nats_below_baseline": below, "learned": below >= MARGIN, "text": text}


def speed_record(run, train, bert):
    """(hardware, training): the device's peak, the tokens a second, the share of the peak; None: unknown.

    Only the work on real tokens counts: padding and what is computed twice make the share smaller.
    """
    state, settings = run.state, run.settings
    speed = state["timed_tokens"] / state["timed_seconds"] if state["timed_seconds"] else None
    peak, source = device_peak(settings["device"], settings["dtype"])
    lengths = train.lengths.astype(float)
    length = round((lengths**2).sum() / lengths.sum())  # of the example that a token is in
    first, last = settings["mlm_probability"], settings["mlm_probability_end"]
    flops = flops_a_token(bert, length, (first + (last or first)) / 2)
    share = speed * flops / peak / settings["processes"] if speed and peak else None
    return (
        {"peak_flops": peak, "peak_from": source},
        {"tokens_per_second": speed, "share_of_peak": share},
    )


def run_record(run, parameters, about_corpus, train, bert, baseline):
    """The record of a finished run as a dict; see the README for its fields.

    As it was written before, where that was with this checkpoint. Raises NotebookError where the run is
    not finished.
    """
    run.check_finished()
    if written := written_record(run):
        return written
    state, settings, kept = run.state, run.settings, run.kept
    measured = run.measured.loc[: kept["step"]]
    packages = ("torch", "torch_xla", "transformers", "pytorch-lightning")
    before, after = measured.iloc[0].to_dict(), measured.iloc[-1].to_dict()
    peak, speed = speed_record(run, train, bert)
    return {
        "parameters": parameters,
        "versions": {
            "python": platform.python_version(),
            **{name: installed_version(name) for name in packages},
        },
        "hardware": {
            "device": settings["device"],
            "processes": settings["processes"],
            "precision": settings["dtype"],
            "threads": torch.get_num_threads(),
            **peak,
        },
        "data": {
            **{name: about_corpus[name] for name in ("source", "sha256", "lines")},
            "tokens": len(train.ids),
        },
        "model": {"name": settings["model"], "parameters": bert.num_parameters()},
        "training": {
            "steps": run.step,
            "tokens_seen": state["tokens"],
            "seconds": state["seconds"],
            **speed,
            "padding": 1 - (state["tokens"] + 2 * state["examples"]) / state["cells"],
            **{name: settings[name] for name in RECIPE},
        },
        "before": before,
        "after": after,
        "kept": {"which": settings["keep"], **kept},
        "baseline": {"loss": baseline},
        "verdict": verdict(
            list(measured["loss"].items()),
            baseline,
            settings["model"].startswith("scratch:"),
            state["examples"] / len(train) * kept["step"] / run.step,
        ),
        "xla": state.get("xla"),
        "compile": state.get("compile"),
    }


def write_record(record, run):
    """Write the model's card and run.json, which vouches for all files, where `save_model` wrote any.

    Then others can open the run. Raises NotebookError where it cannot be written.
    """
    if main_process() and not run.untouched:
        with writing("run.json", run.folder):
            write_card(run.folder / "model", run.folder.name, record, run.state["history"])
            vouched = {CHECKPOINT: run.good[1], **digests(run.folder, outputs(run.folder))}
            write_sealed(run.folder / "run.json", {**record, "files": vouched})
    leave(run.folder)


def check_files(folder):
    """Raises NotebookError where a file of a finished run is not what run.json vouches for.

    The checkpoint, which is not needed to predict, may be missing.
    """
    record = read_record(folder / "run.json")
    vouched = dict(record.get("files", {})) if record else {}
    if not (folder / CHECKPOINT).exists():
        vouched.pop(CHECKPOINT, None)
    bad = damaged(folder, vouched) if vouched else "run.json"
    if bad:
        raise NotebookError(
            f"{folder / bad} is not as it was written: run 04_train.ipynb again with the same "
            "parameters, it makes it anew from the checkpoint; or copy the whole folder again"
        )
