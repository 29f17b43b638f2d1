"""Checkpoints: at any moment a good one exists, and a damaged one is never used."""

import datetime
import hashlib
import itertools
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from test_results import damages

from helpers import refused
from mlm.env.files import write_checked_json
from mlm.training.checkpoint import CHECKSUMS, latest_good_checkpoint
from mlm.training.lock import unlock_run
from mlm.training.run_files import selected_weights
from mlm.training.seeded_dropout import SeededDropout
from small_runs import files_in, replace_file, same, stop_at


@pytest.mark.slow
@pytest.mark.fault
def test_an_unfinished_run_resumes_from_an_undamaged_checkpoint(runs, trained, tmp_path):
    """Both checkpoints and the checksums are damaged in all ways; training continues to the same bits."""
    stopped = stop_at(runs, tmp_path / "cut", 5)
    original = files_in(stopped)
    assert {"checkpoints/last.ckpt", "checkpoints/previous.ckpt"} <= original.keys()
    for name, kind in itertools.product(
        ("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/sha256.json"),
        ("flipped", "cut", "deleted", "exchanged"),
    ):
        contents = [data for n, k, data in damages(original) if (n, k) == (name, kind)]
        work = tmp_path / "again"
        shutil.copytree(stopped.parent, work)
        replace_file(work / "run" / name, random.Random(kind + name).choice(contents))
        assert same(runs(work), trained), (name, kind)
        shutil.rmtree(work)


@pytest.mark.fault
def test_two_damaged_checkpoints_are_refused_and_not_overwritten(runs, tmp_path):
    stopped = stop_at(runs, tmp_path, 5)
    for name in ("last.ckpt", "previous.ckpt"):
        replace_file(stopped / "checkpoints" / name, b"nothing")
    with refused("last.ckpt and previous.ckpt cannot be read", "resume='never'"):
        runs(tmp_path)
    assert (stopped / "checkpoints/last.ckpt").read_bytes() == b"nothing"


def test_without_the_checksums_file_a_flipped_bit_is_found_by_the_checkpoints_own_checksums(
    runs, finished, capsys
):
    path = finished / "checkpoints/last.ckpt"
    data = bytearray(path.read_bytes())
    weights = torch.load(path)["state_dict"]
    largest = max(weights.values(), key=torch.numel).numpy().tobytes()
    data[data.index(largest) + 3] ^= 0x40  # one bit of an exponent
    path.write_bytes(data)
    (finished / "checkpoints/sha256.json").unlink()
    run = runs.train_run(finished.parent)
    assert "own checksums" in capsys.readouterr().out and run.finished
    for weight in runs.module.state_dict().values():
        assert weight.isfinite().all() and weight.abs().max() < 1e3
    unlock_run(finished)


@pytest.mark.slow
@pytest.mark.fault
def test_a_good_checkpoint_exists_wherever_writing_ends(runs, trained, tmp_path, monkeypatch):
    """The power fails before each of the operations that rename or sync files, one after the other."""

    class PowerFailure(BaseException):
        pass

    def fail_after(count, patch):
        left = iter(range(count))
        for owner, name in ((os, "replace"), (Path, "replace"), (os, "fsync")):
            original = getattr(owner, name)

            def counted(*arguments, original=original):
                if next(left, None) is None:
                    raise PowerFailure
                return original(*arguments)

            patch.setattr(owner, name, counted)

    for moment in range(10):  # more than two checkpoints; all are written alike
        work = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            fail_after(moment + 1, patch)
            with pytest.raises(PowerFailure):
                runs(work)
            unlock_run(work / "run")
        assert same(runs(work), trained), moment


def test_the_best_weights_are_selected_if_they_are_stored():
    last, best = {"w": 1}, {"w": 2}
    assert selected_weights({"state_dict": last}) == last
    assert selected_weights({"state_dict": last, "callbacks": {"Keeper": {}}}) == last
    assert selected_weights({"state_dict": last, "callbacks": {"Keeper": {"best": best}}}) == best


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert latest_good_checkpoint(tmp_path) is None


def test_a_good_checkpoint_that_the_checksums_do_not_name_is_not_called_damaged(tmp_path, capsys):
    """The power failed after the checksums were written, before the new checkpoint got its name."""
    for name, content in (("last.ckpt", b"good"), ("previous.ckpt", b"older")):
        (tmp_path / name).write_bytes(content)
    sums = [hashlib.sha256(content).hexdigest() for content in (b"new", b"good")]
    write_checked_json(tmp_path / CHECKSUMS, {"checkpoints": sums})
    assert latest_good_checkpoint(tmp_path).path.name == "last.ckpt"
    assert "damaged" not in capsys.readouterr().out


# what an edit or an added callback stores


@pytest.mark.fault
def test_a_model_as_hyperparameter_is_refused_before_the_first_step(runs, tmp_path):
    """`self.save_hyperparameters()` in an edited MaskedLM stores its argument `bert`."""
    runs.module.save_hyperparameters({"lr": 0.1, "bert": runs.module.bert}, logger=False)
    with refused("save_hyperparameters() would put bert into checkpoints", "ignore=['bert']"):
        runs(tmp_path)
    runs.module.hparams.pop("bert")
    runs(tmp_path)


@pytest.mark.fault
def test_a_checkpoint_that_could_not_be_loaded_is_refused_with_what_it_contains(
    runs, tmp_path, monkeypatch
):
    class Dated(SeededDropout):
        def state_dict(self):
            return {"began": datetime.datetime.now()}

    monkeypatch.setattr("small_runs.SeededDropout", Dated)
    with refused("the checkpoint of step 2 contains datetime.datetime", "added callback stores"):
        runs(tmp_path)
