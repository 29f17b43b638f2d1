"""What is left of a run: the model, twice, and run.json, which says what was run with what result."""

import json
import math
import platform

import torch
from pytorch_lightning.utilities import rank_zero_only
from transformers.utils import logging as transformers_logging

from .notebook import installed_version
from .optimizer import RECIPE


def main_process():
    """Whether this process is to write: there are others only where torchrun or SLURM started us."""
    return rank_zero_only.rank == 0


def save_model(module, tokenizer, folder):
    """Write saved.bin, a plain state_dict, and model/ (weights in safetensors, config, tokenizer).

    Returns whether saved.bin, read back, holds the very weights; True where another process writes.
    """
    if not main_process():
        return True
    transformers_logging.disable_progress_bar()  # one small file needs no bar
    part = folder / "saved.part"
    torch.save(module.state_dict(), part)
    part.replace(folder / "saved.bin")
    module.bert.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    saved = torch.load(folder / "saved.bin", weights_only=True, mmap=True)
    return all(torch.equal(saved[name], weight) for name, weight in module.state_dict().items())


def run_settings(parameters, recipe, about_corpus, tokenizer, device, total_steps):
    """What two runs must have in common to be one, a dict of plain values.

    `recipe` is what `choose_recipe` chose, `device` what `trainer_arguments` found.
    """
    same = ["model", "max_len", "examples", "batch_size", "seed"]
    return {
        **{name: parameters[name] for name in same},
        **recipe,
        "corpus_sha256": about_corpus["sha256"],
        "processes": device["processes"] * parameters["num_nodes"],
        "total_steps": total_steps,
        "device": device["kind"],
        "dtype": str(device["dtype"]),
        "vocab_size": len(tokenizer),
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


def run_record(run, parameters, about_corpus, train, bert, baseline):
    """The record of a finished run as a dict; see the README for its fields."""
    state, settings, measured = run.state, run.settings, run.measured
    packages = ("torch", "torch_xla", "transformers", "pytorch-lightning")
    before, after = measured.iloc[0].to_dict(), measured.iloc[-1].to_dict()
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
            "tokens_per_second": state["timed_tokens"] / state["seconds"]
            if state["seconds"]
            else None,
            "padding": 1 - (state["tokens"] + 2 * state["examples"]) / state["cells"],
            **{name: settings[name] for name in RECIPE},
        },
        "before": before,
        "after": after,
        "baseline": {"loss": baseline},
        "verdict": verdict(
            list(measured["loss"].items()),
            baseline,
            settings["model"].startswith("scratch:"),
            state["examples"] / len(train),
        ),
        "xla": state.get("xla"),
    }


def write_record(record, folder):
    """Write run.json, whole or not at all."""
    if main_process():
        part = folder / "run.part"
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(folder / "run.json")
