"""A run's folder: an interrupted run is resumed to the same bits, and only with the same settings."""

import copy
import json
import os
import shutil
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from helpers import refused
from mlm.data.tokenizer import load_tokenizer
from mlm.models import long_rows
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.loading import load_model
from mlm.training.datamodule import MaskedLMData
from mlm.training.failures import request_stop
from mlm.training.run import open_run
from small_runs import (
    BASELINE,
    STEPS,
    Broken,
    Patch,
    SmallRuns,
    fail_at,
    logger_state,
    result,
    same,
    stop_at,
)

# errors and stops


@pytest.mark.fault
def test_a_kernel_that_has_used_cuda_since_the_devices_were_chosen(runs, tmp_path, monkeypatch):
    """It cannot be forked; what it has locked is free again."""
    settings = runs.settings() | {"device": "gpu", "processes": 2}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for _ in range(2):
        run = open_run(tmp_path, "run", "auto", settings)
        with refused("has used a GPU already", "restart the kernel"), run.training():
            pytest.fail("training began")


@pytest.mark.parametrize("step", [0, 1, 2, 5, 7])
def test_after_an_error_the_same_cell_resumes_the_run(runs, trained, tmp_path, step):
    """From the last checkpoint, or from the start if there is none yet."""
    with fail_at(runs, step), pytest.raises(Broken):
        runs(tmp_path)
    assert (tmp_path / "run/checkpoints/last.ckpt").exists() == (step >= 2)
    assert same(runs(tmp_path), trained)


@pytest.mark.parametrize("step", [1, 4])
def test_a_stopped_run_resumes_to_the_same_bits(runs, trained, tmp_path, step):
    stop_at(runs, tmp_path, step)
    assert same(runs(tmp_path), trained)


@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
def test_a_run_with_long_rows_and_dropout_resumes_to_the_same_bits(
    runs, tmp_path, monkeypatch, attention
):
    monkeypatch.setattr(long_rows, "LONG_ROW", 8)
    monkeypatch.setattr(long_rows, "SCORES_AT_ONCE", 1)  # rows are computed in several parts
    monkeypatch.setattr("mlm.training.results.flops_per_token", lambda *_: 1e6)  # of short rows
    use_attention_and_dropout(runs.module.bert, attention, "torch")
    uninterrupted = runs(tmp_path / "whole")
    stop_at(runs, tmp_path / "cut", 4)
    assert same(runs(tmp_path / "cut"), uninterrupted)


@pytest.mark.parametrize("kind", ["float32", "float16", "cased"])
def test_a_pretrained_model_with_dropout_resumes_to_the_same_bits(
    corpus_folder, tokenizer, bert, quick_results, tmp_path, kind
):
    """Loaded from a folder, which transformers returns in eval mode; each part in a new kernel."""
    model = tmp_path / "model"
    (bert.half() if kind == "float16" else bert).save_pretrained(model)
    tokenizer.save_pretrained(model)
    if kind == "cased":
        text = (model / "tokenizer.json").read_text()
        assert '"lowercase": true' in text
        (model / "tokenizer.json").write_text(
            text.replace('"lowercase": true', '"lowercase": false')
        )

    def kernel():
        loaded = load_tokenizer(str(model), None)
        return SmallRuns(corpus_folder, loaded, load_model(str(model), loaded, 32, 0.1))

    uninterrupted = kernel()(tmp_path / "whole")
    stop_at(kernel(), tmp_path / "cut", 4)
    assert same(kernel()(tmp_path / "cut"), uninterrupted)


@pytest.mark.parametrize("batch", [1, 11])
def test_with_gradient_accumulation_an_error_in_any_batch_of_a_step_resumes_to_the_same_bits(
    runs, tmp_path, batch
):
    """The interrupted step begins again, with the same dropout."""
    runs.data = MaskedLMData(runs.train, runs.data.valid, 4, 0.15, 0, STEPS, accumulate=3)
    uninterrupted = runs(tmp_path / "whole")
    batches = []

    def fail(step):
        batches.append(step)
        if len(batches) == batch + 1:
            raise Broken

    with Patch(runs, fail), pytest.raises(Broken):
        runs(tmp_path / "cut")
    assert same(runs(tmp_path / "cut"), uninterrupted)
    assert torch.load(uninterrupted / "checkpoints/last.ckpt")["global_step"] == STEPS


@pytest.mark.parametrize("options", [{"masking": "word"}, {"replace": "100/0/0"}])
def test_other_masks_are_another_run_and_resume_to_the_same_bits(runs, tmp_path, options):
    runs.data = MaskedLMData(runs.train, runs.data.valid, 8, 0.3, 0, STEPS, **options)
    uninterrupted = runs(tmp_path / "whole", **options)
    stop_at(runs, tmp_path / "cut", 4, **options)
    with refused("holds another run", f"{next(iter(options))} was"):
        runs(tmp_path / "cut")
    assert same(runs(tmp_path / "cut", **options), uninterrupted)


# gradient accumulation


@pytest.mark.parametrize("batch_size, accumulate", [(8, 4), (2, 16)])
def test_gradient_accumulation_trains_and_counts_like_one_large_batch(
    corpus_folder, tokenizer, bert, quick_results, tmp_path, batch_size, accumulate
):
    """Losses and weights equal except for rounding, counts exactly. Twelve steps are an epoch."""

    def train(folder, batch_size, accumulate):
        runs = SmallRuns(corpus_folder, tokenizer, copy.deepcopy(bert))
        runs.data = MaskedLMData(
            runs.train, runs.data.valid, batch_size, 0.15, 0, STEPS, accumulate=accumulate
        )
        return runs(tmp_path / folder)

    large, small = train("large", 32, 1), train("small", batch_size, accumulate)
    (weights, losses), (expected_weights, expected) = result(small), result(large)
    assert [row[:2] for row in losses] == [row[:2] for row in expected] and len(losses) > STEPS
    assert [row[2] for row in losses] == pytest.approx([row[2] for row in expected], abs=1e-3)
    for name, weight in expected_weights.items():
        if not name.endswith("key.bias"):  # its gradient is only rounding, which Adam scales up
            assert (weights[name] - weight).abs().max() < 2e-3, name
    for count in ("tokens", "examples"):
        assert logger_state(small)[count] == logger_state(large)[count]


# opening a folder


@pytest.mark.fault
def test_a_run_with_another_tokenizer_of_the_same_size_is_refused(runs, tokenizer, tmp_path):
    stop_at(runs, tmp_path, 4)
    vocabulary = tokenizer.get_vocab()
    one, other = [word for word in vocabulary if word.isalpha()][:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    runs.tokenizer = type(tokenizer)(vocab=vocabulary)
    assert len(runs.tokenizer) == len(tokenizer)
    with refused("holds another run (the tokenizer changed", "another run_name"):
        runs(tmp_path)


def test_run_json_records_the_kernels(runs, tmp_path):
    folder = runs(tmp_path, kernels="onednn-sdpa-torch")
    results = json.loads((folder / "run.json").read_text())
    assert results["hardware"]["kernels"] == "onednn-sdpa-torch"


@pytest.mark.fault
def test_a_finished_run_without_a_checkpoint_is_not_trained_over(runs, finished):
    shutil.rmtree(finished / "checkpoints")
    with refused("holds a finished run without a readable checkpoint", "resume='never'"):
        runs(finished.parent)


def test_another_number_of_threads_is_reported(runs, tmp_path, monkeypatch, capsys):
    stop_at(runs, tmp_path, 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    open_run(tmp_path, "run", "auto", runs.settings())
    assert "began with 1 thread(s) and is resumed with 2" in capsys.readouterr().out


def test_a_new_run_that_was_stopped_says_how_to_resume_it(runs, finished):
    with (
        Patch(runs, lambda step: os.kill(os.getpid(), signal.SIGINT)),
        refused("stopped at step 1 of 8, saved", 'to resume, pass run_name="run-2", resume="auto"'),
    ):
        runs(finished.parent, resume="never")
    assert (finished.with_name("run-2") / "checkpoints/last.ckpt").exists()


@pytest.mark.fault
def test_a_folder_that_is_a_file_is_refused(runs, tmp_path):
    (tmp_path / "run").write_text("a file")
    with refused("run_name='run'", "cannot be a run's folder", "pass another run_name"):
        runs(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_deleting_the_folder_during_training_is_a_one_line_error(runs, tmp_path, step):
    def delete(now):
        if now == step:
            shutil.rmtree(tmp_path / "run")

    with Patch(runs, delete), refused("could not be written"):
        runs(tmp_path)


# logs


def test_tensorboard_shows_a_resumed_run_as_one_curve_beside_the_baseline(runs, tmp_path):
    def stop(step):
        if step == 2:
            request_stop(tmp_path / "run")

    with Patch(runs, stop), refused("stopped at step 3"):
        runs.train_run(tmp_path)
    runs.train_run(tmp_path)
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    curves = {name: events.Scalars(name, "valid/loss") for name in events.Runs()}
    logs = os.path.join("run", "logs", "tensorboard")
    assert sorted(curves) == [logs, os.path.join(logs, "unigram baseline")]
    assert [event.step for event in curves[logs]] == [0, 2, 4, 6, 8]
    baseline = curves[os.path.join(logs, "unigram baseline")]
    assert {(event.step, event.value) for event in baseline} == {(0, BASELINE), (STEPS, BASELINE)}


def test_a_model_whose_operations_cannot_be_counted_is_saved(runs, tmp_path, monkeypatch, capsys):
    """The fraction of the peak is a figure for people: it must not cost the run."""

    def fails(*_):
        raise AssertionError("Expected gradient function to be set")

    monkeypatch.setattr("mlm.training.results.flops_per_token", fails)
    monkeypatch.setattr("mlm.training.results.device_peak", lambda *_: (1e12, "measured"))
    folder = runs(tmp_path)
    results = json.loads((folder / "run.json").read_text())
    assert results["training"]["share_of_peak"] is None
    assert "mfu is unknown" in capsys.readouterr().out
