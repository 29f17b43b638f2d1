"""04 in real processes: killed, interrupted, started twice, on several processes, with damaged files and full disks.

tests/training/test_run.py has the same properties, in more cases, for a run inside one process.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyter_client
import pytest
import torch
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from processes import (
    ROOT,
    RUNNER,
    TRAINING,
    english_text,
    environment,
    finish,
    identical,
    kill_repeatedly,
    pairs,
    refusal,
    result,
    start,
)

pytestmark = pytest.mark.slow
PATCHES = ROOT / "tests" / "patches"  # faults, put into the library while it runs
SHORT = dict(model="scratch:tiny", batch_size=8, max_steps=16, checkpoint_steps=2)
LONG = {**SHORT, "epochs": 2, "max_steps": 60}  # long enough to be stopped
NO_CHECKPOINT = {**LONG, "checkpoint_steps": 1000}  # none before the end, unless the run is stopped


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small English text."""
    return english_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(folder, corpus=text, **LONG))
    return folder


@pytest.fixture
def copy(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(uninterrupted, tmp_path / "copy")


# stopped and resumed


def test_killed_four_times_and_resumed_is_bit_identical(tmp_path, text, uninterrupted):
    kills, steps_done = kill_repeatedly(tmp_path, 4, uninterrupted, corpus=text, **LONG)
    assert kills == 4 and steps_done[0] == 0 < steps_done[4]
    assert identical(uninterrupted, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_says_how_to_resume(tmp_path, text, uninterrupted, number):
    process = start(tmp_path, corpus=text, **NO_CHECKPOINT)
    for line in process.stdout or ():
        if line.startswith("step      4"):
            process.send_signal(number)
            break
    message = refusal(finish(process, code=1))
    assert re.search(r"stopped at step \d+ of 60, saved: to resume, run this cell and all", message)
    assert ": 0 of 60" not in finish(start(tmp_path, corpus=text, **NO_CHECKPOINT))
    assert identical(uninterrupted, tmp_path)


@contextlib.contextmanager
def kernel(folder: Path, **parameters: Any) -> Iterator[tuple[Any, Callable, list[NotebookNode]]]:
    """Context manager: a real kernel in `folder`, in which a test runs cells as a person does.

    Yields (its manager, a function that executes a source and returns the reply, the code cells of 04).
    """
    values = {"kernels": "default-matmul-16bit", **parameters}
    notebook = parameterize_notebook(load_notebook_node(str(TRAINING)), values)
    manager, client = jupyter_client.manager.start_new_kernel(cwd=str(folder), env=environment())

    def execute(source: str, hook: Callable[[dict], None] = lambda message: None) -> dict:
        return client.execute_interactive(source, output_hook=hook, timeout=120)["content"]

    try:
        yield manager, execute, [cell for cell in notebook.cells if cell.cell_type == "code"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_after_an_interrupted_kernel_the_training_cell_can_be_run_again(
    tmp_path, text, uninterrupted
):
    """Cell by cell in a real kernel, as a person does."""
    with kernel(tmp_path, **NO_CHECKPOINT, corpus=str(text)) as (manager, execute, cells):

        def interrupt_at_step_4(message):
            if "step      4" in str(message["content"]):
                manager.interrupt_kernel()

        for cell in cells:
            if cell.id == "train":
                stopped = execute(cell.source, interrupt_at_step_4)
                assert "run this cell and all below" in stopped["evalue"]
            reply = execute(cell.source)
            assert reply["status"] == "ok", reply
    assert identical(uninterrupted, tmp_path)


def test_cells_that_are_run_again_belong_to_the_run(tmp_path, text):
    """Parameters and the model are changed after training; a second run is the first one again."""
    with kernel(tmp_path, **SHORT, corpus=str(text)) as (_, execute, cells):
        source = {cell.id: cell.source for cell in cells}
        for cell in cells:
            assert execute(cell.source)["status"] == "ok", cell.id
        execute('run_name, lr = "second", 0.01')
        execute(source["check"])
        assert "lr was None, is 0.01" in execute(source["train"])["evalue"]
        execute("lr = None")
        assert "already trained" in execute(source["prepare"])["evalue"]
        execute(source["model"])  # another model than the one in `module`
        for name in ("train", "result", "forgetting", "predictions", "save", "record"):
            reply = execute(source[name])
            assert reply["status"] == "ok", reply
        assert execute('assert models["after training"] is module.bert')["status"] == "ok"
    first, second = (tmp_path / "bert-mlm" / name for name in ("run", "second"))
    assert (first / "saved.bin").read_bytes() == (second / "saved.bin").read_bytes()


# one run per folder, one process per run


@pytest.mark.fault
def test_a_finished_run_is_shown_and_not_trained_again(copy, text):
    saved = copy / "bert-mlm" / "run" / "saved.bin"
    before = saved.read_bytes()
    assert "nothing to train" in finish(start(copy, corpus=text, **LONG))
    assert saved.read_bytes() == before


@pytest.mark.fault
def test_other_parameters_are_refused_unless_the_run_gets_a_new_folder(copy, text):
    saved = copy / "bert-mlm" / "run" / "saved.bin"
    before = saved.read_bytes()
    other = {**SHORT, "lr": 1e-4, "max_steps": 60, "epochs": 2}
    message = refusal(finish(start(copy, corpus=text, **other), code=1))
    assert "lr was" in message and "is 0.0001" in message and "resume='never'" in message
    finish(start(copy, corpus=text, **{**SHORT, "lr": 1e-4, "resume": "never"}))
    assert saved.read_bytes() == before
    assert (copy / "bert-mlm" / "run-2" / "run.json").exists()


@pytest.mark.fault
@pytest.mark.parametrize("delay", [0, 0.7])
def test_of_two_jobs_one_trains_and_the_other_is_refused(tmp_path, text, uninterrupted, delay):
    jobs = [start(tmp_path, corpus=text, **LONG)]
    time.sleep(delay)
    jobs.append(start(tmp_path, corpus=text, **LONG))
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 1], outputs
    message = refusal("".join(outputs))
    assert "run is being trained in (by " in message and "another run_name" in message
    assert identical(uninterrupted, tmp_path)


# damage


def damage(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.fault
def test_damaged_files_are_rebuilt_from_the_last_good_checkpoint(copy, text, uninterrupted):
    run = copy / "bert-mlm" / "run"
    for name in ("checkpoints/last.ckpt", "saved.bin", "run.json"):
        damage(run / name)
    output = finish(start(copy, corpus=text, **LONG))
    assert "last.ckpt is damaged" in output and "58 of 60 steps are done" in output
    assert identical(uninterrupted, copy)
    assert json.loads((run / "run.json").read_text())["training"]["steps"] == 60


@pytest.mark.fault
def test_a_run_with_two_damaged_checkpoints_is_refused_and_left_as_it_is(copy, text):
    checkpoints = copy / "bert-mlm" / "run" / "checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        damage(checkpoints / name)
    before = {path.name: path.stat().st_size for path in checkpoints.iterdir()}
    message = refusal(finish(start(copy, corpus=text, **LONG), code=1))
    assert "last.ckpt and previous.ckpt cannot be read" in message and "resume='never'" in message
    assert {path.name: path.stat().st_size for path in checkpoints.iterdir()} == before


@pytest.mark.fault
@pytest.mark.parametrize("cpu_processes", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights(
    tmp_path, text, cpu_processes
):
    values = {**SHORT, "cpu_processes": cpu_processes, "epochs": 2}
    output = finish(start(tmp_path, patch=PATCHES / "nan_loss.py", corpus=text, **values), code=1)
    message = refusal(output)
    assert "step 10" in message and "try a lower lr" in message and "Traceback" not in output
    kept = torch.load(tmp_path / "bert-mlm" / "run" / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == 8
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.fault
def test_a_full_disk_loses_nothing(tmp_path, text):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(disk)]).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        message = refusal(finish(start(disk, corpus=text, **SHORT), code=1))
        assert "could not be written" in message and "free" in message
        kept = torch.load(disk / "bert-mlm" / "run" / "checkpoints" / "last.ckpt")
        assert kept["global_step"] >= 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, text):
    (tmp_path / "file").touch()
    message = refusal(finish(start(tmp_path, corpus=text, **SHORT, workdir="file"), code=1))
    assert "workdir" in message


# several processes


def losses(folder: Path) -> list[float]:
    """The training and validation losses that a run logged."""
    return [row[name] for row in result(folder)[1] for name in row if name.endswith("_loss")]


def test_two_processes_follow_the_loss_of_one(tmp_path, text):
    """Half the batch in each, forked (with and without gradient accumulation) or started by torchrun."""
    same = dict(SHORT, corpus=text, dropout=0.0, precision=32, max_steps=12)
    half = dict(same, batch_size=4, cpu_processes=2)
    finish(start(tmp_path / "one", **same))
    finish(start(tmp_path / "fork", **half))
    finish(start(tmp_path / "accumulate", **{**half, "batch_size": 2, "accumulate": 2}))
    (tmp_path / "torchrun").mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "--no-python", sys.executable, str(RUNNER), str(TRAINING), *pairs(half)],
        cwd=tmp_path / "torchrun", capture_output=True, text=True, timeout=300,
        env={**environment(), "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert losses(tmp_path / "fork") == pytest.approx(losses(tmp_path / "one"), abs=2e-5)
    assert losses(tmp_path / "accumulate") == pytest.approx(losses(tmp_path / "one"), abs=2e-5)
    assert losses(tmp_path / "torchrun") == pytest.approx(losses(tmp_path / "fork"), abs=1e-6)
    for name in ("fork", "torchrun"):
        results = json.loads((tmp_path / name / "bert-mlm/run/run.json").read_text())
        assert results["hardware"]["processes"] == 2
        assert 0 < results["training"]["padding"] < 0.4  # of both processes together


def test_a_batch_job_of_one_task_starts_its_own_processes(tmp_path, text, monkeypatch):
    """SLURM sets these variables in each job, also if it started no other process of it."""
    job = dict(
        JOB_ID=7, JOB_NAME="train", NTASKS=1, PROCID=0, LOCALID=0, NODEID=0, NTASKS_PER_NODE=1
    )
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    values = {**SHORT, "batch_size": 4, "max_steps": 2, "cpu_processes": 2, "resume": "never"}
    assert "2 steps, " in finish(start(tmp_path, corpus=text, **values))


def test_two_processes_on_four_cores_do_not_hang(tmp_path, text, monkeypatch):
    """Lightning gives each fork two threads there, but the fork has only one thread of the kernel's pool."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    values = {**SHORT, "batch_size": 4, "max_steps": 4, "cpu_processes": 2}
    process = start(
        tmp_path, patch=PATCHES / "four_cores.py", fork=False, threads=None, corpus=text, **values
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output[-3000:]


def failed_output(tmp_path, text, patch: str) -> str:
    """What 04 prints with two processes, of which one fails as the patch says."""
    values = {**SHORT, "batch_size": 4, "cpu_processes": 2}
    return finish(start(tmp_path, patch=PATCHES / patch, corpus=text, **values), code=1)


@pytest.mark.fault
def test_the_error_of_one_process_ends_all_of_them(tmp_path, text):
    assert "ValueError: bad example 7" in failed_output(tmp_path, text, "bad_example.py")


@pytest.mark.fault
def test_too_little_memory_in_one_of_several_processes_is_one_line(tmp_path, text):
    output = failed_output(tmp_path, text, "full_memory.py")
    message = refusal(output)
    assert "out of memory with batch_size=4, accumulate=1" in message
    assert "pass batch_size=" in message and "Traceback" not in output


@pytest.mark.fault
def test_a_killed_process_ends_the_run_with_the_probable_cause(tmp_path, text):
    output = failed_output(tmp_path, text, "killed_process.py")
    message = refusal(output)
    assert "SIGKILL, usually because memory ran out" in message and "run this again" in message
    assert "Traceback" not in output
