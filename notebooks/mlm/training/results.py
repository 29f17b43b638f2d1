"""What is left of a run: the model, twice, and run.json, which says what was run with what result."""

import json
import platform
import shutil

import torch
from transformers.utils import logging as transformers_logging

from mlm.env.files import (
    first_damaged,
    json_digest,
    move_into_place,
    read_checked_json,
    sha256_sums,
)
from mlm.env.files import write_checked_json as write_sealed
from mlm.env.notebook import NotebookError, installed_version
from mlm.models.flops import device_peak, flops_per_token
from mlm.optim.recipe import RECIPE_SETTINGS
from mlm.training.checkpoint import staging_folder, write_errors
from mlm.training.history import write_metrics
from mlm.training.lock import is_main_process, unlock_run
from mlm.training.model_card import write_card
from mlm.training.verdict import verdict

CHECKPOINT = "checkpoints/last.ckpt"


def stored_results(run):
    """run.json, where it was written with the very checkpoint that the run has now; else None."""
    record = read_checked_json(run.folder / "run.json") or {}
    made_with = record.get("files", {}).get(CHECKPOINT)
    return record if run.good and made_with == run.good[1] else None


def output_files(folder):
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
    if not is_main_process():
        return True
    folder, record = run.folder, stored_results(run)
    vouched = {k: v for k, v in record["files"].items() if k != CHECKPOINT} if record else {}
    bad = first_damaged(folder, vouched)
    run.untouched = record is not None and bad is None
    if bad:
        print(f"{folder / bad} is damaged or missing: made anew from the checkpoint")
    if not run.untouched:
        with write_errors("saved.bin and model/", folder), staging_folder(folder) as parts:
            write_outputs(module, tokenizer, parts)
            for part in sorted(path for path in parts.rglob("*") if path.is_file()):
                path = folder / part.relative_to(parts)
                path.parent.mkdir(exist_ok=True)
                move_into_place(part, path)
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
    return json_digest({k: v for k, v in does.items() if k not in ("truncation", "padding")})


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


def speed_results(run, train, bert):
    """(hardware, training): the device's peak, the tokens a second, the share of the peak; None: unknown.

    Only the work on real tokens counts: padding and what is computed twice make the share smaller.
    """
    state, settings = run.state, run.settings
    speed = state["timed_tokens"] / state["timed_seconds"] if state["timed_seconds"] else None
    peak, source = device_peak(settings["device"], settings["dtype"])
    lengths = train.lengths.astype(float)
    length = round((lengths**2).sum() / lengths.sum())  # of the example that a token is in
    first, last = settings["mlm_probability"], settings["mlm_probability_end"]
    flops = flops_per_token(bert, length, (first + (last or first)) / 2)
    share = speed * flops / peak / settings["processes"] if speed and peak else None
    return (
        {"peak_flops": peak, "peak_from": source},
        {"tokens_per_second": speed, "share_of_peak": share},
    )


def run_results(run, parameters, about_corpus, train, bert, baseline):
    """The record of a finished run as a dict; see the README for its fields.

    As it was written before, where that was with this checkpoint. Raises NotebookError where the run is
    not finished.
    """
    run.check_finished()
    if written := stored_results(run):
        return written
    state, settings, kept = run.state, run.settings, run.kept
    measured = run.measured.loc[: kept["step"]]
    packages = ("torch", "torch_xla", "transformers", "pytorch-lightning")
    before, after = measured.iloc[0].to_dict(), measured.iloc[-1].to_dict()
    peak, speed = speed_results(run, train, bert)
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
            **{name: settings[name] for name in RECIPE_SETTINGS},
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


def write_results(record, run):
    """Write the model's card and run.json, which vouches for all files, where `save_model` wrote any.

    Then others can open the run. Raises NotebookError where it cannot be written.
    """
    if is_main_process() and not run.untouched:
        with write_errors("run.json", run.folder):
            write_card(run.folder / "model", run.folder.name, record, run.state["history"])
            vouched = {CHECKPOINT: run.good[1], **sha256_sums(run.folder, output_files(run.folder))}
            write_sealed(run.folder / "run.json", {**record, "files": vouched})
    unlock_run(run.folder)


def check_files(folder):
    """Raises NotebookError where a file of a finished run is not what run.json vouches for.

    The checkpoint, which is not needed to predict, may be missing.
    """
    record = read_checked_json(folder / "run.json")
    vouched = dict(record.get("files", {})) if record else {}
    if not (folder / CHECKPOINT).exists():
        vouched.pop(CHECKPOINT, None)
    bad = first_damaged(folder, vouched) if vouched else "run.json"
    if bad:
        raise NotebookError(
            f"{folder / bad} is not as it was written: run 04_train.ipynb again with the same "
            "parameters, it makes it anew from the checkpoint; or copy the whole folder again"
        )
