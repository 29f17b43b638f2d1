"""The TPU path: the same losses as on a CPU, few compilations, no operation on the host, exact resume."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from processes import CALLBACK_STATE, ROOT, finish
from xla_runs import HERE, SMALL, papermill, start_on_xla

NEAR = dict(abs=1e-5, rel=0)


def losses(run: SimpleNamespace) -> list[float]:
    """The validation losses before and after training."""
    return [run.before["loss"], run.after["loss"]]


def same_weights(one: Path, other: Path) -> bool:
    """Whether the saved models of the runs in two folders agree in every bit."""
    a, b = (torch.load(folder / "bert-mlm/run/saved.bin") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# losses


def test_one_core_learns_what_the_cpu_learns(train):
    assert losses(train(1)) == pytest.approx(losses(train(0)), **NEAR)
    assert train(1).hardware["device"] == "tpu"
    assert train(1).after["loss"] < train(1).before["loss"] - 0.3


def test_two_cores_learn_what_two_cpu_processes_learn(train):
    cpu = train(0, cpu_processes=2, batch_size=4)
    assert losses(train(2, batch_size=4)) == pytest.approx(losses(cpu), **NEAR)
    assert losses(cpu) == pytest.approx(losses(train(0)), **NEAR)
    assert train(2, batch_size=4).hardware["processes"] == 2


def test_eight_cores_learn_what_the_cpu_learns(train):
    eight, cpu = train(8, batch_size=1, max_steps=8), train(0, max_steps=8)
    assert losses(eight) == pytest.approx(losses(cpu), **NEAR)
    assert eight.training["tokens_seen"] == cpu.training["tokens_seen"]


def test_a_core_chosen_by_index_learns_what_the_cpu_learns(train):
    one = train(1, tpu_cores="[0]", max_steps=4)
    assert losses(one) == pytest.approx(losses(train(0, max_steps=4)), **NEAR)


def test_bfloat16_is_chosen_on_a_tpu(train):
    run = train(1, precision="auto", max_steps=4)
    assert run.hardware["precision"] == "torch.bfloat16"
    float32 = train(1, max_steps=4)
    assert run.after["loss"] != float32.after["loss"]
    assert run.after["loss"] == pytest.approx(float32.after["loss"], abs=0.05)


# compilations and transfers


@pytest.mark.parametrize(
    "devices, batch_size, few, many", [(1, 8, 30, 120), (2, 4, 30, 120), (8, 1, 8, 30)]
)
def test_more_steps_compile_nothing_more(train, devices, batch_size, few, many):
    short = train(devices, batch_size=batch_size, max_steps=few)
    long = train(devices, batch_size=batch_size, max_steps=many, epochs=4)
    assert short.xla["compilations"] == long.xla["compilations"] <= 6
    assert short.xla["fallbacks"] == long.xla["fallbacks"] == []


def test_the_device_is_read_once_per_log_line(train):
    for steps, epochs in ((30, 1), (120, 4)):
        run = train(1, max_steps=steps, epochs=epochs)
        callbacks = torch.load(run.folder / "checkpoints" / "last.ckpt")["callbacks"]
        rows = len(callbacks[CALLBACK_STATE]["history"])  # a log line or an evaluation each
        assert run.xla["reads"] <= rows + 1  # and once before the checkpoint, for its sums


# stopped and resumed


def test_stopped_and_resumed_is_bit_identical(tmp_path, text_file):
    """With dropout. The first run gets SIGTERM, as on a preempted machine."""
    parameters = {**SMALL, "corpus": text_file, "dropout": 0.1, "checkpoint_steps": 3}
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    output = finish(start_on_xla(uninterrupted, 1, **parameters))
    assert "run: 0 of 30 steps are done" in output
    process = start_on_xla(stopped, 1, **parameters)
    for line in process.stdout or ():
        if line.startswith("step     10"):
            process.terminate()
            break
    assert "run this cell and all below" in finish(process, code=1)
    assert "run: 0 of 30 steps are done" not in finish(start_on_xla(stopped, 1, **parameters))
    assert same_weights(uninterrupted, stopped)


def test_interrupted_and_run_again_in_the_same_kernel_is_bit_identical(tmp_path, text_file):
    """On XLA, training separates decoder and embedding: the training cell ties them again first."""
    parameters = {**SMALL, "corpus": text_file, "dropout": 0.1, "checkpoint_steps": 3}
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    finish(start_on_xla(uninterrupted, 1, **parameters))
    process = start_on_xla(interrupted, 1, ["--again", "train"], **parameters)
    output = []
    for line in process.stdout or ():
        output.append(line)
        if line.startswith("step     10  training"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 0, "".join(output)[-3000:]
    assert "stopped at step" in "".join(output)
    assert same_weights(uninterrupted, interrupted)


def test_a_failing_process_fails_the_notebook(tmp_path, text_file):
    """The dataset raises in one of two forked processes: the notebook ends soon, with that error."""
    patch = ["--patch", str(HERE.parent / "patches" / "bad_example.py")]
    values = {**SMALL, "corpus": text_file, "batch_size": 4, "tpu_cores": 2}
    process = start_on_xla(tmp_path, 2, patch, **values)
    output = process.communicate(timeout=300)[0]
    assert process.returncode != 0 and "bad example 7" in output


# the other notebooks, other machines


@pytest.mark.parametrize("devices, tpu_cores", [(1, 1), (1, "[0]"), (2, 2), (8, 8)])
def test_setup_notebook(tmp_path, devices, tpu_cores):
    done, _ = papermill("01_setup", tmp_path, devices, tpu_cores=tpu_cores)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "devices, options", [(1, {}), (2, dict(batch_size=4)), (8, dict(batch_size=1, max_steps=8))]
)
def test_prediction_notebook_on_the_machine_that_trained(train, tmp_path, devices, options):
    workdir = train(devices, **options).folder.parent
    done, out = papermill("05_predict", tmp_path, devices, workdir=workdir, run_name="run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "identical: True" in out.read_text()


def test_a_model_saved_on_a_tpu_loads_without_torch_xla(train, tmp_path):
    python = ROOT / ".venv" / "bin" / "python"
    site_packages = next((ROOT / ".venv" / "lib").iterdir()) / "site-packages"
    assert python.exists() and "torch_xla" not in os.listdir(site_packages)
    workdir = train(2, batch_size=4).folder.parent
    parameters = dict(workdir=workdir, run_name="run")
    done, out = papermill("05_predict", tmp_path, python=str(python), **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "identical: True" in out.read_text()


def test_the_package_versions_of_kaggle(tmp_path, text_file):
    python = ROOT / ".venv-kaggle" / "bin" / "python"
    parameters = {**SMALL, "max_steps": 4, "corpus": text_file}
    done, _ = papermill("04_train", tmp_path, 1, python=str(python), **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "bert-mlm" / "run" / "run.json").read_text())
    assert results["versions"]["torch"].startswith("2.8")
    assert results["hardware"]["device"] == "tpu"


REFUSED = [  # devices of the machine, tpu_cores, parts of the error message
    (1, 8, ["this machine has 1 TPU core", "pass 0, 1 or [0]", "Colab's TPU (v5e-1) has 1"]),
    (8, 3, ["tpu_cores=3", "pass 0, 1, 8 (all) or [k] with k from 0 to 7"]),
    (8, "[8]", ["tpu_cores=[8]", "k from 0 to 7"]),
    (0, 1, ["this machine has 0 TPU cores", "(no TPU)"]),
]


@pytest.mark.parametrize("devices, tpu_cores, words", REFUSED)
def test_missing_cores_are_refused_before_anything_is_downloaded(
    tmp_path, devices, tpu_cores, words
):
    unreachable = "http://127.0.0.1:9/none.txt"
    done, _ = papermill("04_train", tmp_path, devices, tpu_cores=tpu_cores, corpus=unreachable)
    message = [line for line in done.stderr.splitlines() if line.startswith("NotebookError")]
    assert done.returncode != 0 and len(message) == 1
    assert all(word in message[0] for word in words), message
    assert not (tmp_path / "bert-mlm").exists()
