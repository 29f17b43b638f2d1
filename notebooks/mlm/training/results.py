"""The results of a finished run: saved.bin, model/ and run.json.

run.json says what was run and with what result. It stores the SHA-256 of the other output files and of
the checkpoint that they were made from, so damage is found and repaired from the checkpoint.
"""

import contextlib
import json
import math
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import save_tokenizer
from mlm.env.files import (
    first_damaged,
    move_into_place,
    read_checked_json,
    sha256_sums,
    short_repr,
    write_checked_json,
)
from mlm.env.names import public_names, public_parameters, without_paths
from mlm.env.notebook import NotebookError, installed_version, started_by_launcher
from mlm.models.flops import device_peak, flops_per_token
from mlm.optim.recipe import RECIPE_SETTINGS
from mlm.training.checkpoint import is_write_error, staging_folder, write_errors
from mlm.training.evaluation import repeated_fraction, training_unigram_loss, visible_gain
from mlm.training.history import write_metrics
from mlm.training.lock import is_main_process, unlock_run
from mlm.training.model_card import write_card
from mlm.training.module import MaskedLM
from mlm.training.normal_loss import compare_with_measured
from mlm.training.run import Run
from mlm.training.run_files import CHECKPOINT, output_files, selected_weights
from mlm.training.verdict import Evidence, verdict

CONFIGS = "config.json", "tokenizer_config.json"  # in model/
PACKAGES = "torch", "torch_xla", "transformers", "pytorch-lightning"  # their versions are stored


def stored_results(run: Run) -> dict[str, Any] | None:
    """The content of run.json if it was written with the run's current checkpoint; otherwise None."""
    results = read_checked_json(run.folder / "run.json") or {}
    sha256 = results.get("files", {}).get(CHECKPOINT)
    return results if run.stored and sha256 == run.stored.sha256 else None


# the model


def save_model(module: MaskedLM, tokenizer: Any, run: Run) -> bool:
    """Write saved.bin, a plain state_dict, and model/ (weights in safetensors, config, tokenizer).

    Intact files of a finished run stay untouched; damaged ones are rebuilt. Returns whether saved.bin,
    read back, has exactly the module's weights (True in processes that do not write). Raises
    NotebookError if the run is not finished, the module has other weights than the run keeps, the files cannot
    be written, or transformers cannot save the model.
    """
    run.check_finished()
    if not is_main_process():
        return True
    check_kept_weights(module, run)
    folder, results = run.folder, stored_results(run)
    sums = dict(results["files"]) if results else {}
    sums.pop(CHECKPOINT, None)
    damaged = first_damaged(folder, sums)
    if not results and (folder / "run.json").exists():  # edited, or of another checkpoint
        damaged = "run.json"
    run.outputs_intact = results is not None and damaged is None
    if damaged:
        print(f"{folder / damaged} is not as it was written: rebuilt from the checkpoint")
    if not run.outputs_intact:
        with (
            write_errors("saved.bin and model/", folder),
            save_errors(module.bert, folder),
            staging_folder(folder) as staging,
        ):
            write_model(module, tokenizer, staging)
            for staged in sorted(path for path in staging.rglob("*") if path.is_file()):
                path = folder / staged.relative_to(staging)
                path.parent.mkdir(exist_ok=True)
                move_into_place(staged, path)
        write_metrics(folder, run.history)
    saved = torch.load(folder / "saved.bin", weights_only=True, mmap=True)
    return all(torch.equal(saved[name], weight) for name, weight in module.state_dict().items())


def check_kept_weights(module: MaskedLM, run: Run) -> None:
    """Raise NotebookError if a module has other weights than a finished run keeps."""
    if not run.checkpoint or not run.checkpoint.exists():  # perhaps deleted to make room
        return
    content = torch.load(run.checkpoint, map_location="cpu", mmap=True, weights_only=True)
    kept, weights = selected_weights(content), module.state_dict()
    if kept.keys() != weights.keys() or not all(map(torch.equal, kept.values(), weights.values())):
        raise NotebookError(
            f"the model in memory is not the one that {run.folder.name} trained, for example because a cell above "
            "was run again: run the training cell and all cells below it again"
        )


@contextlib.contextmanager
def save_errors(model: Any, folder: Path) -> Iterator[None]:
    """Context manager: a model or tokenizer that transformers cannot save is an error of one line."""
    try:
        yield
    except Exception as error:
        if is_write_error(error) or isinstance(error, NotebookError):
            raise
        reason = " ".join(str(error).split())[:200]
        kind = getattr(model.config, "model_type", "unknown")
        raise NotebookError(
            f"transformers cannot save this {kind!r} model or its tokenizer ({type(error).__name__}: {reason}): "
            "undo what was changed in them after loading, or pass another model; the trained weights are kept in "
            f"{folder / CHECKPOINT}"
        ) from None


def write_model(module: MaskedLM, tokenizer: Any, folder: Path) -> None:
    """Write saved.bin and model/ into a folder."""
    transformers_logging.disable_progress_bar()  # one small file needs no bar
    torch.save(module.state_dict(), folder / "saved.bin")
    module.bert.save_pretrained(folder / "model")
    try:
        save_tokenizer(tokenizer, folder / "model")
    except Exception as error:
        if type(error) is Exception:  # of tokenizers, for example on a full disk
            raise OSError(str(error)) from None
        raise
    for name in CONFIGS:
        path = folder / "model" / name
        config = json.loads(path.read_text(encoding="utf-8"))
        if without_paths(config) != config:  # of the files that training started from
            path.write_text(json.dumps(without_paths(config), indent=2) + "\n", encoding="utf-8")
    for weights in (folder / "model").glob("*.safetensors"):
        shutil.copymode(folder / "saved.bin", weights)  # safetensors lets only the owner read


# run.json


def speed_results(
    run: Run, train: MaskedLMDataset, model: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(results about the hardware, results about training): peak, tokens per second, fraction of the peak.

    Unknown values are None. Only real tokens count as work: padding lowers the fraction.
    """
    state, settings = run.state or {}, run.settings
    speed = state["timed_tokens"] / state["timed_seconds"] if state["timed_seconds"] else None
    peak, source = device_peak(settings["device"], settings["dtype"])
    fraction = None
    if speed and peak:
        lengths = train.lengths.astype(float)
        length = round((lengths**2).sum() / lengths.sum())  # of the example of an average token
        try:
            flops = flops_per_token(model, length, settings["mlm_probability"])
            # processes that this notebook forks share the cores on which the peak is measured
            shared = settings["device"] == "cpu" and not started_by_launcher()
            fraction = speed * flops / peak / (1 if shared else settings["processes"])
        except (
            Exception
        ) as error:  # some model that torch cannot count: a figure must not cost the run
            print(f"mfu is unknown: counting the model's operations failed ({short_repr(error)})")
    return (
        {"peak_flops": peak, "peak_from": source},
        {"tokens_per_second": speed, "share_of_peak": fraction},
    )


def evidence_of(
    run: Run, parameters: dict[str, Any], train: MaskedLMDataset, baseline: float
) -> Evidence:
    """What the verdict on a finished run is based on."""
    state, step = run.state or {}, run.kept["step"]
    limit = "max_steps=-1" if parameters.get("max_steps") == run.total_steps else ""
    training = [(row["step"], row["train_loss"]) for row in run.history if "train_loss" in row]
    return Evidence(
        validation=list(run.evaluations.loc[:step, "loss"].items()),
        training=[(at, loss) for at, loss in training if at <= step],
        baseline=baseline,
        from_scratch=run.settings["model"].startswith("scratch:"),
        epochs=state["examples"] / train.examples_per_epoch * step / run.step,
        visible_gain=visible_gain(train),
        unk_fraction=train.unk_fraction,
        repeated_fraction=repeated_fraction(train),
        easier=baseline - training_unigram_loss(train),
        uniform=math.log(len(train.used_ids)),
        limit="a larger patience" if run.step < run.total_steps else limit,
    )


def run_results(
    run: Run,
    parameters: dict[str, Any],
    about_corpus: dict[str, Any],
    train: MaskedLMDataset,
    model: Any,
    baseline: float,
) -> dict[str, Any]:
    """The results of a finished run, the content of run.json: see docs/checkpoints.md for its fields.

    If run.json was written with the current checkpoint, its content is returned. Raises NotebookError
    if the run is not finished.
    """
    run.check_finished()
    if stored := stored_results(run):
        run.results = stored
        return stored
    state, settings, kept = run.state or {}, run.settings, run.kept
    evaluations = run.evaluations.loc[: kept["step"]]
    evidence = evidence_of(run, parameters, train, baseline)
    comparison = compare_with_measured(
        evidence,
        settings["model"],
        about_corpus["bytes"],
        settings["mlm_probability"],
        about_corpus["source"],
    )
    hardware, speed = speed_results(run, train, model)
    run.results = {
        "parameters": public_parameters(parameters),
        "versions": {
            "python": platform.python_version(),
            **{name: installed_version(name) for name in PACKAGES},
        },
        "hardware": {
            "device": settings["device"],
            "processes": settings["processes"],
            "precision": settings["dtype"],
            "kernels": settings["kernels"],
            "threads": state.get("threads", torch.get_num_threads()),  # of each process
            **hardware,
        },
        "data": {
            "source": public_names(about_corpus["source"]),  # of an earlier version
            **{
                name: about_corpus[name]
                for name in ("sha256", "text_sha256", "bytes", "lines", "split")
            },
            "tokens": len(train.own_ids),
            "replay": about_corpus.get("replay"),
        },
        "model": {"name": settings["model"], "parameters": model.num_parameters()},
        "training": {
            "steps": run.step,
            "tokens_seen": state["tokens"],
            "seconds": state["seconds"],
            **speed,
            # the fraction of padding; [CLS] and [SEP] of each example are real tokens
            "padding": 1 - (state["tokens"] + 2 * state["examples"]) / state["cells"],
            **{name: settings[name] for name in RECIPE_SETTINGS},
        },
        "before": evaluations.iloc[0].to_dict(),
        "after": evaluations.iloc[-1].to_dict(),
        "kept": {"which": settings["keep"], **kept},
        "baseline": {"loss": baseline},
        "verdict": {**verdict(evidence), "comparison": comparison},
        "xla": state.get("xla"),
        "compile": state.get("compile"),
    }
    return run.results


def write_results(results: dict[str, Any], run: Run, widget: Sequence[str] = ()) -> None:
    """Write run.json and the model card, unless all output files are intact, and unlock the run.

    widget: the sentences that the model's page on the Hub offers to try. Raises NotebookError if the
    run is not finished, the results are of another run, or the files cannot be written.
    """
    run.check_finished()
    if results is not run.results:
        raise NotebookError(
            f"the results are not of {run.folder.name}: run the cell with run_results and all cells below it again"
        )
    if is_main_process() and not run.outputs_intact:
        with write_errors("run.json", run.folder):
            write_card(run.folder / "model", run.folder.name, results, run.history, widget)
            sums = sha256_sums(run.folder, output_files(run.folder))
            if run.stored:
                sums[CHECKPOINT] = run.stored.sha256
            write_checked_json(run.folder / "run.json", {**results, "files": sums})
    unlock_run(run.folder)
