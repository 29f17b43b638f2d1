"""Nothing is lost: cut and resumed, interrupted, several processes, damaged files, full disks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jupyter_client
import pytest
import torch
from papermill.parameterize import parameterize_notebook

from helpers import ROOT
from soak import RUN, cut_often, english, result, same, start

pytestmark = pytest.mark.slow
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are rounded by how threads share them
PATCHES = ROOT / "tests/patches"  # faults, put into the library while it runs
SMALL = dict(model="scratch:tiny", batch_size=8, max_steps=24, checkpoint_steps=2)
LONG = {**SMALL, "epochs": 4, "max_steps": 120}  # there is time to stop it


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return english(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, corpus=text, **LONG))
    return folder


def finish(process, code=0):
    """Wait for a run; its output."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output[-3000:]
    return output


def pairs(values):
    """Parameters as they are typed."""
    return [str(part) for name in values for part in ("-p", name, values[name])]


def refusal(output):
    """The one line of a NotebookError in an output."""
    (line,) = set(re.findall(r"NotebookError: .*", output))
    return line


def test_killed_four_times_and_resumed_is_bit_identical(tmp_path, text, whole):
    made, done_at = cut_often(tmp_path, 4, whole, corpus=text, **LONG)
    assert made == 4 and done_at[0] == 0 < done_at[1] < done_at[4]
    assert same(result(whole), result(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, text, whole, number):
    process = start(tmp_path, corpus=text, **{**LONG, "checkpoint_steps": 1000})
    for line in process.stdout:
        if line.startswith("step      4"):
            process.send_signal(number)
            break
    line = refusal(finish(process, 1))
    assert re.search(
        r"stopped at step \d+ of 120, saved: to resume, run this cell and all below", line
    )
    assert ": 0 of 120" not in finish(
        start(tmp_path, corpus=text, **{**LONG, "checkpoint_steps": 1000})
    )
    assert same(result(whole), result(tmp_path))


def test_interrupting_the_kernel_leaves_the_notebook_usable(tmp_path, text, whole):
    """Cell by cell in a kernel, as a person would: stop in the middle of training, run the cell again."""
    notebook = parameterize_notebook(
        jupyter_notebook("04_train"), {**LONG, "corpus": str(text), "checkpoint_steps": 1000}
    )
    manager, client = jupyter_client.manager.start_new_kernel(cwd=str(tmp_path), env=ONE_THREAD)
    try:
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            if cell.id != "train":
                reply = client.execute_interactive(
                    cell.source, output_hook=lambda m: None, timeout=120
                )
            else:

                def stop(message):
                    if "step      4" in str(message["content"]):
                        manager.interrupt_kernel()

                reply = client.execute_interactive(cell.source, output_hook=stop, timeout=120)
                assert "run this cell and all below" in reply["content"]["evalue"]
                reply = client.execute_interactive(
                    cell.source, output_hook=lambda m: None, timeout=120
                )
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert same(result(whole), result(tmp_path))


def jupyter_notebook(name):
    """A committed notebook as papermill wants it."""
    from papermill.iorw import load_notebook_node

    return load_notebook_node(str(ROOT / f"notebooks/{name}.ipynb"))


@pytest.mark.fault
def test_finished_other_and_new_runs(tmp_path, text, whole):
    """A finished run is shown, not trained over; another under its name is refused; "never" is new."""
    shutil.copytree(whole, tmp_path / "a")
    folder, run = tmp_path / "a", tmp_path / "a/bert-mlm/run"
    saved = (run / "saved.bin").read_bytes()
    assert "nothing to train" in finish(start(folder, corpus=text, **LONG))
    assert (run / "saved.bin").read_bytes() == saved
    line = refusal(finish(start(folder, corpus=text, **LONG, lr=1e-4), 1))
    assert "lr was" in line and "is 0.0001" in line and "resume='never'" in line
    finish(start(folder, corpus=text, **LONG, lr=1e-4, resume="never"))
    assert (run / "saved.bin").read_bytes() == saved and (
        run.with_name("run-2") / "run.json"
    ).exists()


@pytest.mark.fault
def test_two_jobs_of_one_run(tmp_path, text, whole):
    """At once, twice: one trains, to the very result; the other is told who does, in one line."""
    for number, later in enumerate((0, 0.7)):
        folder = tmp_path / str(number)
        jobs = [start(folder, corpus=text, **LONG)]
        time.sleep(later)
        jobs.append(start(folder, corpus=text, **LONG))
        outputs = [job.communicate(timeout=300)[0] for job in jobs]
        assert sorted(job.returncode for job in jobs) == [0, 1], outputs
        line = refusal("".join(outputs))
        assert "run is being trained in (by process" in line and "another run_name" in line
        assert same(result(whole), result(folder))


def damage(path):
    """Cut a file off in its middle."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.fault
def test_damaged_files_fall_back_to_the_last_good_checkpoint(tmp_path, text, whole):
    shutil.copytree(whole, tmp_path / "a")
    run = tmp_path / "a/bert-mlm/run"
    for name in ("checkpoints/last.ckpt", "saved.bin", "run.json"):
        damage(run / name)
    output = finish(start(tmp_path / "a", corpus=text, **LONG))
    assert "last.ckpt is damaged" in output and "118 of 120 steps are done" in output
    assert same(result(whole), result(tmp_path / "a"))
    assert json.loads((run / "run.json").read_text())["training"]["steps"] == 120


@pytest.mark.fault
def test_two_damaged_checkpoints_are_not_trained_over(tmp_path, text, whole):
    shutil.copytree(whole, tmp_path / "a")
    kept = tmp_path / "a/bert-mlm/run/checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        damage(kept / name)
    before = {path.name: path.stat().st_size for path in kept.iterdir()}
    line = refusal(finish(start(tmp_path / "a", corpus=text, **LONG), 1))
    assert "last.ckpt and previous.ckpt cannot be read" in line and "resume='never'" in line
    assert {path.name: path.stat().st_size for path in kept.iterdir()} == before


@pytest.mark.fault
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_good_weights(tmp_path, text):
    output = finish(
        start(
            tmp_path,
            corpus=text,
            **SMALL,
            lr=1.0,
            schedule="constant",
            weight_decay=0.0,
            precision=32,
        ),
        0,
    )
    assert "nan" not in output  # Adam bounds each step: even lr=1 is finite, so it must be provoked
    values = {**SMALL, "corpus": text, "run_name": "nan"}
    done = subprocess.run(
        [*RUN, "--patch", PATCHES / "nan_loss.py", *pairs(values)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "step 10" in refusal(done.stdout) and "try a lower lr" in refusal(done.stdout)
    kept = torch.load(tmp_path / "bert-mlm/nan/checkpoints/last.ckpt")
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
        line = refusal(finish(start(disk, corpus=text, **SMALL), 1))
        assert "could not be written" in line and "make room" in line
        kept = torch.load(disk / "bert-mlm/run/checkpoints/last.ckpt")
        assert kept["global_step"] >= 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault
def test_a_workdir_that_cannot_be_written(tmp_path, text):
    (tmp_path / "file").touch()
    line = refusal(finish(start(tmp_path, corpus=text, **SMALL, workdir="file"), 1))
    assert "workdir" in line


def losses(folder):
    """The losses that a run logged, training and held-out."""
    return [row[name] for row in result(folder)[1] for name in row if name.endswith("_loss")]


def test_two_processes_follow_the_curve_of_one(tmp_path, text):
    """Half the batch each, by fork (at once or in two parts) and by torchrun: the same losses to rounding."""
    same_for_all = dict(corpus=text, **{**SMALL, "dropout": 0.0, "precision": 32})
    finish(start(tmp_path / "one", **same_for_all))
    finish(start(tmp_path / "fork", **{**same_for_all, "batch_size": 4, "cpu_processes": 2}))
    (tmp_path / "torchrun").mkdir()
    values = {**same_for_all, "batch_size": 4, "cpu_processes": 2}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", *RUN,
         *pairs(values)],
        cwd=tmp_path / "torchrun", capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = dict(batch_size=2, accumulate=2, cpu_processes=2)
    finish(start(tmp_path / "parts", **same_for_all | parts))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "one"), abs=2e-5)
    assert losses(tmp_path / "fork") == pytest.approx(losses(tmp_path / "one"), abs=2e-5)
    assert losses(tmp_path / "torchrun") == pytest.approx(losses(tmp_path / "fork"), abs=1e-6)
    for folder in ("fork", "torchrun"):
        record = json.loads((tmp_path / folder / "bert-mlm/run/run.json").read_text())
        assert record["hardware"]["processes"] == 2
        assert 0 < record["training"]["padding"] < 0.4  # of both of them together


def test_two_processes_on_four_cores_do_not_hang(tmp_path, text):
    """There Lightning gives each fork two threads, of which the kernel's pool has kept but one."""
    values = {**SMALL, "corpus": text, "batch_size": 4, "max_steps": 4, "cpu_processes": 2}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*RUN, "--patch", PATCHES / "four_cores.py", *pairs(values)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.fault
def test_a_failing_process_ends_all_with_its_error(tmp_path, text):
    values = {**SMALL, "corpus": text, "batch_size": 4, "cpu_processes": 2}
    done = subprocess.run(
        [*RUN, "--patch", PATCHES / "bad_example.py", *pairs(values)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "ValueError: bad example 7" in done.stdout
