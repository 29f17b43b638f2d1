"""The results of a run: whatever happens to the files, only intact ones are used, and damage is repaired."""

import json
import os
import random
import shutil
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import refused
from mlm.env.files import read_checked_json
from mlm.training.lock import unlock_run
from mlm.training.results import save_model, speed_results, write_results
from mlm.training.run import open_run
from mlm.training.run_files import check_files
from small_runs import STEPS, Patch, files_in, replace_file, same, stop_at

UNUSED_BY_05 = {"checkpoints/previous.ckpt", "checkpoints/sha256.json", "logs/trackers.json"}


def damages(files):
    """(name, kind, damaged bytes) for each file: a byte flipped, cut, emptied, deleted (None), exchanged."""
    rng = random.Random(0)
    for name, data in files.items():
        if not data:
            continue
        for position in (0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(3))):
            flipped = bytes([data[position] ^ (1 << rng.randrange(8))])
            yield name, "flipped", data[:position] + flipped + data[position + 1 :]
        for size in (0, 1, len(data) // 2, len(data) - 1):
            yield name, "cut", data[:size]
        yield name, "deleted", None
        for other in files:
            if files[other] != data:
                yield name, "exchanged", files[other]


def is_harmless(name, content, original):
    """Whether 05 does not notice a damage: it does not need the file, or its content is the same."""
    lost_checkpoint = name == "checkpoints/last.ckpt" and content is None
    lost_newline = name == "run.json" and content == original[:-1]
    return name in UNUSED_BY_05 or lost_checkpoint or lost_newline


@pytest.mark.fault
def test_every_damage_of_a_finished_run_is_found(finished):
    original, refusals = files_in(finished), 0
    assert len(original) >= 9 and {"run.json", "checkpoints/sha256.json"} <= original.keys()
    for name, _, content in damages(original):
        replace_file(finished / name, content)
        if is_harmless(name, content, original[name]):
            check_files(finished)
        else:
            with refused(f"{finished / name} is not as it was written: run 04_train.ipynb again"):
                check_files(finished)
            refusals += 1
        (finished / name).write_bytes(original[name])
    assert refusals > 100


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["flipped", "cut", "deleted", "exchanged"])
def test_04_repairs_a_damaged_file_of_a_finished_run(runs, finished, kind):
    """One random damage per file. The model and the tokenizer are the same bytes as before."""
    original = files_in(finished)
    for name in original:
        contents = [data for n, k, data in damages(original) if (n, k) == (name, kind)]
        replace_file(finished / name, random.Random(name).choice(contents))
        runs(finished.parent)
        now = files_in(finished)
        for other in ("saved.bin", "model/model.safetensors", "model/tokenizer.json"):
            assert now[other] == original[other], (name, other)
        for other, content in original.items():
            if now.get(other) != content:
                (finished / other).write_bytes(content)


def test_a_finished_run_is_not_written_to(runs, finished, capsys):
    def state():
        # the folder itself changes: the lock file is created and deleted
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in finished.rglob("*")}

    before = state()
    runs(finished.parent)
    assert "nothing to train" in capsys.readouterr().out
    assert state() == before


@pytest.mark.fault
def test_a_changed_run_json_is_written_again_and_a_line_says_so(runs, finished, capsys):
    original = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps(original | {"note": "mine"}))
    runs(finished.parent)
    assert f"{finished / 'run.json'} is not as it was written: rebuilt" in capsys.readouterr().out
    assert "note" not in json.loads((finished / "run.json").read_text())


def test_files_have_the_usual_permissions(trained):
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.stat().st_mode & 0o777 for path in trained.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}


@pytest.mark.fault
def test_an_unfinished_run_has_no_results(runs, tmp_path):
    folder = stop_at(runs, tmp_path, 5)
    run = open_run(tmp_path, "run", "auto", runs.settings())
    for cell in (lambda: runs.results(run), lambda: save_model(runs.module, runs.tokenizer, run)):
        with refused("run is at step 5 of 8: run the training cell"):
            cell()
    unlock_run(folder)
    assert not (folder / "saved.bin").exists() and not (folder / "run.json").exists()


def test_the_training_time_includes_all_parts_of_an_interrupted_run(runs, tmp_path):
    """Also the time after the last log line."""
    with Patch(runs, lambda step: time.sleep(0.1)):
        stop_at(runs, tmp_path, 3)
        folder = runs(tmp_path)
    assert read_checked_json(folder / "run.json")["training"]["seconds"] >= 0.1 * STEPS


@pytest.mark.fault
def test_a_tokenizer_that_cannot_be_written_is_a_one_line_error(runs, tmp_path, monkeypatch):
    """The tokenizers library raises a bare Exception."""

    def full(*_, **__):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(runs.tokenizer), "save_pretrained", full)
    with refused("could not be written (No space left", str(tmp_path), "make room"):
        runs(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The weights contained shared tensors [{'a', 'b'}]\nthat do not match"),
        TypeError("Object of type Tensor is not JSON serializable"),
        ValueError("You are trying to save a non contiguous tensor"),
    ],
)
def test_a_model_that_transformers_cannot_save_is_one_line_and_no_full_disk(
    runs, tmp_path, monkeypatch, error
):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(runs.module.bert), "save_pretrained", fail)
        words = (
            " ".join(str(error).split()),
            "cannot save this 'bert' model",
            "checkpoints/last.ckpt",
        )
        with refused(*words) as message:
            runs(tmp_path)
        assert "make room" not in message()
    assert (runs(tmp_path) / "model" / "model.safetensors").exists()  # nothing was lost


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of a size like "64m" and returns its folder; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() != 0 or subprocess.run(command).returncode:
            pytest.skip("this user or machine cannot mount a tmpfs")
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)])


@pytest.mark.fault
def test_results_on_a_full_disk_are_a_one_line_error(runs, trained, small_disk):
    """The run is trained to its end; then saved.bin, model/ or run.json does not fit."""
    disk, errors = small_disk("64m"), []
    shutil.copytree(trained, disk / "run")
    size = sum(path.stat().st_size for path in trained.glob("model/*"))
    for free in range(0, 3 * size, size // 5):
        for name in ("saved.bin", "run.json"):
            (disk / "run" / name).unlink(missing_ok=True)
        with open(disk / "ballast", "wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - free)
        try:
            assert same(runs(disk), trained)
        except ValueError as error:
            errors.append(str(error))
            assert str(disk) in errors[-1] and "\n" not in errors[-1], errors[-1]
        (disk / "ballast").unlink()
    assert same(runs(disk), trained) and 3 < len(errors) < 15


@pytest.mark.slow
@pytest.mark.fault
def test_a_run_on_a_disk_of_any_size_fails_in_one_line_and_resumes_with_more_space(
    runs, trained, small_disk, tmp_path
):
    errors = []
    needed = sum(len(data) for data in files_in(trained).values()) // 1024
    for size in range(100, needed + 900, needed // 8):
        disk = small_disk(f"{size}k")
        try:
            runs(disk / "work")
        except ValueError as error:
            errors.append(str(error))
            assert "\n" not in errors[-1] and "could not be" in errors[-1], errors[-1]
            assert str(disk) in errors[-1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert same(runs(disk / "work"), trained), size
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert 3 < len(errors) < 20


def test_saved_bin_is_read_back_and_compared(runs, finished, monkeypatch):
    run = runs.train_run(finished.parent)
    assert save_model(runs.module, runs.tokenizer, run)
    content = torch.load(finished / "saved.bin")
    next(iter(content.values())).add_(1)
    torch.save(content, finished / "saved.bin")
    monkeypatch.setattr("mlm.training.results.first_damaged", lambda *_: None)
    assert not save_model(runs.module, runs.tokenizer, run)
    unlock_run(run.folder)


@pytest.mark.fault
def test_results_are_only_written_into_the_folder_of_their_run(runs, finished, tmp_path):
    """The cells below a training cell may be run without the one that computes the results."""
    before, first = files_in(finished), runs.train_run(finished.parent)
    results = runs.results(first)
    folder = stop_at(runs, tmp_path / "other", 5)
    second = open_run(tmp_path / "other", "run", "auto", runs.settings())
    with refused("run is at step 5 of 8: run the training cell"):
        write_results(results, second)
    second = runs.train_run(tmp_path / "other")
    with refused("the results are not of run: run the cell with run_results"):
        write_results(results, second)
    assert not (folder / "run.json").exists()
    write_results(results, first)
    unlock_run(folder)
    assert files_in(finished) == before


@pytest.mark.fault
def test_only_the_weights_that_the_run_keeps_are_saved(runs, tmp_path):
    """Cells may have been run in any order, or interrupted."""
    run = runs.train_run(tmp_path)
    runs.module.load_state_dict(runs.start)
    with refused("the model in memory is not the one that run trained", "run the training cell"):
        save_model(runs.module, runs.tokenizer, run)
    assert not (run.folder / "saved.bin").exists()
    runs.train_run(tmp_path)
    shutil.rmtree(run.folder / "checkpoints")  # to make room on a full disk
    assert save_model(runs.module, runs.tokenizer, run)
    unlock_run(run.folder)


@pytest.mark.parametrize("launched, fraction", [(False, 1e-5), (True, 5e-6)])
def test_forked_processes_share_the_cores_of_the_measured_peak(monkeypatch, launched, fraction):
    monkeypatch.setattr("mlm.training.results.device_peak", lambda *_: (1e12, "measured"))
    monkeypatch.setattr("mlm.training.results.flops_per_token", lambda *_: 1e6)
    monkeypatch.setattr("mlm.training.results.started_by_launcher", lambda: launched)
    run = SimpleNamespace(
        state={"timed_tokens": 10, "timed_seconds": 1},
        settings={"device": "cpu", "dtype": "float32", "processes": 2, "mlm_probability": 0.3},
    )
    _, training = speed_results(run, SimpleNamespace(lengths=np.ones(3)), None)
    assert training["share_of_peak"] == pytest.approx(fraction)
