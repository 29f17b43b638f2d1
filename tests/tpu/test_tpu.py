"""The TPU path: the same losses as on a CPU, few compilations, nothing done on the host, nothing lost."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from conftest import HERE, ROOT, SMALL, environment, papermill

NEAR = dict(abs=1e-5, rel=0)
RUN = [
    sys.executable,
    str(HERE.parent / "run_notebook.py"),
    str(ROOT / "notebooks/04_train.ipynb"),
]


def pairs(values):
    """Parameters as they are typed."""
    return [str(part) for name in values for part in ("-p", name, values[name])]


def losses(run):
    return [run.before["loss"], run.after["loss"]]


def test_one_core_learns_what_the_cpu_learns(train):
    assert losses(train(1)) == pytest.approx(losses(train(0)), **NEAR)
    assert train(1).hardware["device"] == "tpu"
    assert train(1).after["loss"] < train(1).before["loss"] - 0.3


def test_two_cores_learn_what_two_cpu_processes_learn(train):
    cpu = train(0, cpu_processes=2, batch_size=4)
    assert losses(train(2, batch_size=4)) == pytest.approx(losses(cpu), **NEAR)
    assert losses(cpu) == pytest.approx(losses(train(0)), **NEAR)
    assert train(2, batch_size=4).hardware["processes"] == 2


def test_eight_cores(train):
    eight, cpu = train(8, batch_size=1, max_steps=8), train(0, max_steps=8)
    assert losses(eight) == pytest.approx(losses(cpu), **NEAR)
    assert eight.training["tokens_seen"] == cpu.training["tokens_seen"]


def test_a_core_by_index(train):
    one = train(1, tpu_cores="[0]", max_steps=4)
    assert losses(one) == pytest.approx(losses(train(0, max_steps=4)), **NEAR)


@pytest.mark.parametrize(
    "devices, batch_size, few, many", [(1, 8, 30, 120), (2, 4, 30, 120), (8, 1, 8, 30)]
)
def test_few_compilations_however_many_steps(train, devices, batch_size, few, many):
    short = train(devices, batch_size=batch_size, max_steps=few)
    long = train(devices, batch_size=batch_size, max_steps=many, epochs=4)
    assert short.xla["compilations"] == long.xla["compilations"] <= 6
    assert short.xla["fallbacks"] == long.xla["fallbacks"] == []


def test_the_device_is_read_once_an_interval(train):
    for steps, epochs in ((30, 1), (120, 4)):
        run = train(1, max_steps=steps, epochs=epochs)
        state = torch.load(run.folder / "checkpoints" / "last.ckpt")["callbacks"]["Keeper"]
        rows = len(state["history"])  # a log line or a measurement each
        assert run.xla["reads"] <= rows + 1  # and one before the checkpoint, for its sums


def test_bf16_is_chosen_on_a_tpu(train):
    run = train(1, precision="auto", max_steps=4)
    assert run.hardware["precision"] == "torch.bfloat16"
    plain = train(1, max_steps=4)
    assert run.after["loss"] != plain.after["loss"]
    assert run.after["loss"] == pytest.approx(plain.after["loss"], abs=0.05)


def test_cut_and_resumed_is_bit_identical(tmp_path, text_file):
    """Dropout on; the first run is told to stop (SIGTERM, as a preempted machine is) on its way."""
    parameters = {**SMALL, "corpus": text_file, "dropout": 0.1, "checkpoint_steps": 3}
    command, values = RUN, pairs(parameters)
    weights = []
    for name, cut in (("whole", False), ("cut", True)):
        folder = tmp_path / name
        folder.mkdir()
        run = dict(
            cwd=folder,
            env=environment(1),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if cut:
            with subprocess.Popen([*command, *values], **run) as first:
                for line in first.stdout:
                    if line.startswith("step     10"):
                        first.terminate()
                        break
                rest = first.communicate()[0]
            assert first.returncode == 1 and "run this cell and all below" in rest
        again = subprocess.run([*command, *values], **run)
        assert again.returncode == 0, again.stdout[-3000:]
        assert ("run: 0 of 30 steps are done" in again.stdout) != cut
        weights.append(torch.load(folder / "bert-mlm/run/saved.bin"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_interrupted_and_run_again_in_the_same_kernel_is_bit_identical(tmp_path, text_file):
    """On XLA decoder and embedding come apart in training: the cell puts them back first."""
    values = pairs({**SMALL, "corpus": text_file, "dropout": 0.1, "checkpoint_steps": 3})
    weights = []
    for name, again in (("whole", []), ("cut", ["--again", "train"])):
        (tmp_path / name).mkdir()
        with subprocess.Popen(
            [*RUN, *again, *values], cwd=tmp_path / name, env=environment(1), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            output = []
            for line in process.stdout:
                output.append(line)
                if again and line.startswith("step     10  training"):
                    process.send_signal(signal.SIGINT)
        assert process.returncode == 0, "".join(output)[-3000:]
        assert ("stopped at step" in "".join(output)) == bool(again)
        weights.append(torch.load(tmp_path / name / "bert-mlm/run/saved.bin"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_failing_worker_fails_the_notebook(tmp_path, text_file):
    """The dataset raises in one of two forked processes: the notebook ends with that error, soon."""
    values = {**SMALL, "corpus": text_file, "batch_size": 4, "tpu_cores": 2}
    done = subprocess.run(
        [*RUN, "--patch", HERE.parent / "patches/bad_example.py", *pairs(values)],
        cwd=tmp_path, env=environment(2), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0 and "bad example 7" in done.stdout


@pytest.mark.parametrize("here, asked", [(1, 1), (1, "[0]"), (2, 2), (8, 8)])
def test_setup_notebook(tmp_path, here, asked):
    done, _ = papermill("01_setup", tmp_path, here, tpu_cores=asked)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "devices, options", [(1, {}), (2, dict(batch_size=4)), (8, dict(batch_size=1, max_steps=8))]
)
def test_prediction_notebook(train, tmp_path, devices, options):
    """On the machine that trained."""
    workdir = train(devices, **options).folder.parent
    done, out = papermill("05_predict", tmp_path, devices, workdir=workdir, run_name="run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "identical: True" in out.read_text()


def test_what_a_tpu_saved_loads_without_torch_xla(train, tmp_path):
    plain = ROOT / ".venv/bin/python"
    assert plain.exists() and "torch_xla" not in os.listdir(
        next((ROOT / ".venv/lib").iterdir()) / "site-packages"
    )
    workdir = train(2, batch_size=4).folder.parent
    done, out = papermill(
        "05_predict", tmp_path, python=str(plain), workdir=workdir, run_name="run"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "identical: True" in out.read_text()


def test_kaggles_versions(tmp_path, text_file):
    python = ROOT / ".venv-kaggle/bin/python"
    parameters = {**SMALL, "max_steps": 4, "corpus": text_file}
    done, _ = papermill("04_train", tmp_path, 1, python=str(python), **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "bert-mlm/run/run.json").read_text())
    assert run["versions"]["torch"].startswith("2.8") and run["hardware"]["device"] == "tpu"


ASKED = [  # devices there, what is asked for, environment, what the error says
    (1, 8, {}, ["this machine has 1 TPU core;", "pass 0, 1 or [0]", "Colab's TPU (v5e-1) has 1"]),
    (8, 3, {}, ["tpu_cores=3", "pass 0, 1, 8 (all) or [k] with k from 0 to 7"]),
    (8, "[8]", {}, ["tpu_cores=[8]", "k from 0 to 7"]),
    (0, 1, {}, ["this machine has 0 TPU cores", "(no TPU)"]),
]


@pytest.mark.parametrize("here, asked, env, texts", ASKED)
def test_asking_for_what_is_not_there(tmp_path, here, asked, env, texts):
    """Before anything is downloaded: an unreachable corpus is never asked for."""
    done, _ = papermill(
        "04_train", tmp_path, here, tpu_cores=asked, corpus="http://127.0.0.1:9/none.txt"
    )
    message = [line for line in done.stderr.splitlines() if line.startswith("NotebookError")]
    assert done.returncode != 0 and len(message) == 1
    assert all(text in message[0] for text in texts)
    assert not (tmp_path / "bert-mlm").exists()
