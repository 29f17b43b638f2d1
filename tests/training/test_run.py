"""A run's folder under damage, errors, stops, rivals and full disks: what is used is what was written."""

import copy
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import mlm.env.files
from helpers import refused
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import load_tokenizer
from mlm.env.files import read_checked_json
from mlm.models.encoders import supports_packing
from mlm.models.loading import load_model
from mlm.training.datamodule import MaskedLMData
from mlm.training.failures import FailureMonitor
from mlm.training.lock import HELD_LOCKS, lock_run, unlock_run
from mlm.training.module import MaskedLM, reset_module
from mlm.training.settings import run_settings
from mlm.training.results import (
    check_files,
    run_results,
    save_model,
    write_results,
)
from mlm.training.checkpoint_callback import CheckpointingLogger
from mlm.training.run import open_run
from mlm.training.seeded_dropout import SeededDropout

RECIPE = dict(optimizer="adamw", lr=1e-2, schedule="linear", weight_decay=0.01, dropout=0.1,
              mlm_probability=0.15, clip=0.0)  # fmt: skip
PARAMETERS = dict(
    model="a folder", max_len=32, examples="line", batch_size=8, accumulate=1, seed=0, num_nodes=1,
    masking="token", replace="80/10/10", add_words=0, keep="last", evaluations=4, patience=0, compile=False,
)  # fmt: skip
DEVICE = dict(kind="cpu", processes=1, dtype=torch.float32)
STEPS = 8


class Suite:
    """04 from its training cell on, for a small model; `module` is what the kernel holds."""

    def __init__(self, corpus_folder, tokenizer, bert):
        self.tokenizer = tokenizer
        self.train, valid = (
            MaskedLMDataset(corpus_folder / f"{name}.txt", tokenizer, 32)
            for name in ("train", "valid")
        )
        share_rows = supports_packing(bert.config)
        self.data = MaskedLMData(self.train, valid, 8, 0.15, 0, STEPS, pack=share_rows)
        how = {name: RECIPE[name] for name in ("optimizer", "lr", "schedule", "weight_decay")}
        self.module = MaskedLM(bert, how | {"total_steps": STEPS})
        self.start = copy.deepcopy(self.module.state_dict())
        self.corpus = dict(source="a test", sha256="0" * 64, lines=len(self.train))

    def cell(self, workdir, resume="auto", **settings):
        """The training cell; the Run."""
        made = run_settings(
            {**PARAMETERS, **settings}, RECIPE, self.corpus, self.tokenizer, DEVICE, STEPS
        )
        run = open_run(workdir, "run", resume, made)
        reset_module(self.module, self.start)
        keeper = CheckpointingLogger(run, self.data, 5.0, 2, 10)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=STEPS, max_epochs=1, logger=run.loggers(5.0),
            callbacks=[keeper, SeededDropout(0), FailureMonitor(run.folder)], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        if not run.finished:
            with run.training():
                trainer.fit(self.module, self.data, ckpt_path=run.checkpoint, weights_only=True)
        run.load(self.module)
        return run

    def __call__(self, workdir, **how):
        """That cell and all below; the folder."""
        run = self.cell(workdir, **how)
        record = run_results(run, PARAMETERS, self.corpus, self.train, self.module.bert, 5.0)
        assert save_model(self.module, self.tokenizer, run)
        write_results(record, run)
        check_files(run.folder)
        return run.folder


@pytest.fixture
def suite(corpus_folder, tokenizer, bert):
    for part in bert.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
    return Suite(corpus_folder, tokenizer, bert)


@pytest.fixture
def whole(suite, tmp_path):
    """The folder of a run that was left alone."""
    return suite(tmp_path / "whole")


def result(folder):
    """(weights, losses) that a run has left."""
    keeper = torch.load(folder / "checkpoints/last.ckpt")["callbacks"]["Keeper"]
    losses = [
        (row["step"], name, row[name])
        for row in keeper["history"]
        for name in row
        if name.endswith(("loss", "accuracy"))
    ]
    return torch.load(folder / "saved.bin"), losses


def same(one, other):
    """Whether two runs have left the same, bit by bit."""
    (weights, losses), (others, theirs) = result(one), result(other)
    return losses == theirs and all(torch.equal(weights[name], others[name]) for name in weights)


def files_in(folder):
    """{name: bytes} of a run's folder; TensorBoard's own files, which nothing reads, are left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if "tensorboard" not in str(path)
    }


def damages(files):
    """(name, kind, damaged bytes or None) for every file in every way: flipped, cut, emptied, gone, exchanged."""
    chance = random.Random(0)
    for name, data in files.items():
        if not data:
            continue
        for place in (0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(3))):
            flipped = bytes([data[place] ^ (1 << chance.randrange(8))])
            yield name, f"byte {place}", data[:place] + flipped + data[place + 1 :]
        for size in (0, 1, len(data) // 2, len(data) - 1):
            yield name, f"cut to {size}", data[:size]
        yield name, "gone", None
        for other in files:
            if files[other] != data:
                yield name, f"as {other}", files[other]


def put(path, data):
    """Make a file what it is said to be; None: away with it."""
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


# whatever a file says, it is what was written


@pytest.mark.fault
def test_every_damage_of_a_finished_run_is_found_and_mended(suite, whole, capsys):
    """By 05, which refuses all that it would use; by 04 again, which makes the very same anew."""
    kept = files_in(whole)
    assert len(kept) >= 9 and "run.json" in kept and "checkpoints/sha256.json" in kept
    unused = {"checkpoints/previous.ckpt", "checkpoints/sha256.json"}
    counts = {"refused by 05": 0, "made again": 0}
    for name, kind, data in damages(kept):
        put(whole / name, data)
        if (name, kind) == ("run.json", f"cut to {len(kept[name]) - 1}"):
            check_files(whole)  # without its last newline it says the same
        elif name not in unused and (name, kind) != ("checkpoints/last.ckpt", "gone"):
            with refused(f"{whole / name} is not as it was written: run 04_train.ipynb again"):
                check_files(whole)
            counts["refused by 05"] += 1
        suite(whole.parent)
        now = files_in(whole)
        for other in ("saved.bin", "model/model.safetensors", "model/tokenizer.json"):
            assert now[other] == kept[other], (name, kind, other)
        if name not in unused:
            counts["made again"] += 1
        for other, content in kept.items():  # as it was, for the next one
            if now.get(other) != content:
                (whole / other).write_bytes(content)
    with capsys.disabled():
        print(f"\n{len(kept)} files, {len(list(damages(kept)))} damages: {counts}, used: 0")


@pytest.mark.fault
def test_every_damage_of_an_unfinished_run_goes_on_or_is_refused(suite, whole, tmp_path):
    """From the checkpoint that is whole, to the same bits."""
    stopped = stop_at(suite, tmp_path / "cut", 5)
    kept, refusals = files_in(stopped), 0
    assert {"checkpoints/last.ckpt", "checkpoints/previous.ckpt"} <= kept.keys()
    ways = [way for way in damages(kept) if "ckpt" in way[0] or "sha256" in way[0]]
    for name, kind, data in random.Random(1).sample(ways, 16):
        work = tmp_path / "again"
        shutil.copytree(stopped.parent, work)
        put(work / "run" / name, data)
        assert same(suite(work), whole), (name, kind)
        shutil.rmtree(work)
    for name in ("last.ckpt", "previous.ckpt"):
        put(stopped / "checkpoints" / name, b"nothing")
    with refused("last.ckpt and previous.ckpt cannot be read", "resume='never'"):
        suite(stopped.parent)
        refusals += 1
    assert (stopped / "checkpoints/last.ckpt").read_bytes() == b"nothing"  # not trained over


def test_a_flipped_weight_is_not_used_where_the_record_is_damaged_too(suite, whole, capsys):
    path = whole / "checkpoints/last.ckpt"
    data = bytearray(path.read_bytes())
    weights = torch.load(path)["state_dict"]
    largest = max(weights.values(), key=torch.numel).numpy().tobytes()
    data[data.index(largest) + 3] ^= 0x40  # one bit of an exponent
    path.write_bytes(data)
    (whole / "checkpoints/sha256.json").unlink()
    run = suite.cell(whole.parent)
    assert "checksums are read" in capsys.readouterr().out and run.finished
    assert all(w.isfinite().all() and w.abs().max() < 1e3 for w in weights.values())
    unlock_run(whole)


def test_a_finished_run_is_not_written_to(suite, whole, capsys):
    def state():
        paths = (path for path in whole.rglob("*"))
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}

    before = state()
    suite(whole.parent)
    assert "finished before" in capsys.readouterr().out
    gone_and_back = {whole}  # the lock came and went in it
    assert {p: s for p, s in state().items() if p not in gone_and_back} == before


def test_files_have_the_usual_permissions(whole):
    modes = {path.stat().st_mode & 0o777 for path in whole.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~current_umask()}


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.fault
def test_wherever_writing_ends_a_good_checkpoint_is_there(suite, whole, tmp_path, monkeypatch):
    """Power lost before any of the operations that give files their names, one after the other."""

    class PowerLost(BaseException):
        pass

    for moment in itertools.count():
        with monkeypatch.context() as patch:
            left = iter(range(moment + 1))
            for where, name in ((os, "replace"), (Path, "replace"), (os, "fsync")):
                true = getattr(where, name)

                def count(*arguments, true=true, left=left):
                    if next(left, None) is None:
                        raise PowerLost
                    return true(*arguments)

                patch.setattr(where, name, count)
            try:
                suite(tmp_path / "cut")
                break
            except PowerLost:
                unlock_run(tmp_path / "cut/run")
        assert same(suite(tmp_path / "cut"), whole), moment
        shutil.rmtree(tmp_path / "cut")
        if moment > 8:  # each checkpoint is written alike
            break
    assert moment > 5


# an error, a stop, and on


class Broken(Exception):
    pass


def fail_at(suite, step):
    """Let the training step fail in step `step`; a function that mends it."""
    true = suite.module.training_step

    def training_step(batch, batch_idx):
        if suite.module.trainer.global_step == step:
            raise Broken
        return true(batch, batch_idx)

    suite.module.training_step = training_step
    return lambda: setattr(suite.module, "training_step", true)


def stop_at(suite, workdir, step, **how):
    """A run that was asked to stop in step `step`; its folder."""
    true = suite.module.training_step

    def training_step(batch, batch_idx):
        if suite.module.trainer.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return true(batch, batch_idx)

    suite.module.training_step = training_step
    with refused(f"stopped at step {step} of {STEPS}, saved: to go on, run this cell"):
        suite(workdir, **how)
    suite.module.training_step = true
    return workdir / "run"


@pytest.mark.parametrize("step", range(STEPS))
def test_an_error_then_the_same_cell_is_a_resume(suite, whole, tmp_path, step):
    """From the last checkpoint, or from the first weights where there was none yet."""
    mend = fail_at(suite, step)
    with pytest.raises(Broken):
        suite(tmp_path / "cut")
    assert (tmp_path / "cut/run/checkpoints/last.ckpt").exists() == (step >= 2)
    mend()
    assert same(suite(tmp_path / "cut"), whole)


@pytest.mark.fault
def test_cells_below_refuse_what_is_not_finished(suite, tmp_path):
    folder = stop_at(suite, tmp_path / "cut", 5)
    run = open_run(tmp_path / "cut", "run", "auto", torch.load(
        folder / "checkpoints/last.ckpt")["callbacks"]["Keeper"]["settings"])  # fmt: skip
    for cell in (
        lambda: run_results(run, PARAMETERS, suite.corpus, suite.train, suite.module.bert, 5.0),
        lambda: save_model(suite.module, suite.tokenizer, run),
    ):
        with refused("run is at step 5 of 8: run the training cell"):
            cell()
    unlock_run(folder)
    assert not (folder / "saved.bin").exists() and not (folder / "run.json").exists()


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("at", [0, 2, 6])
def test_a_stop_during_a_measurement(suite, whole, tmp_path, monkeypatch, at, batch):
    """It is given up at once, and made when the run goes on: the history is that of a whole run."""
    true, seen = MaskedLMData.held_out, []

    def held_out(data, *share):
        for number, made in enumerate(true(data, *share)):
            if data.trainer.global_step == at:
                seen.append(number)
            if seen and number == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMData, "held_out", held_out)
        with refused(f"stopped at step {at} of {STEPS}", "to go on, run this cell"):
            suite(tmp_path / "cut")
    assert seen == list(range(batch + 1))  # none was evaluated after it
    assert same(suite(tmp_path / "cut"), whole)


@pytest.mark.parametrize("kind", ["float32", "float16", "cased"])
def test_a_pretrained_model_with_dropout_is_resumed_to_the_same_bits(
    corpus_folder, tokenizer, bert, tmp_path, kind
):
    """Loaded from a folder, which transformers hands over in eval mode; 4 + 4 steps are 8."""
    model = tmp_path / "model"
    (bert.half() if kind == "float16" else bert).save_pretrained(model)
    tokenizer.save_pretrained(model)
    if kind == "cased":
        config = (model / "tokenizer.json").read_text()
        assert '"lowercase": true' in config
        (model / "tokenizer.json").write_text(
            config.replace('"lowercase": true', '"lowercase": false')
        )

    def kernel():
        words = load_tokenizer(str(model), None)
        return Suite(corpus_folder, words, load_model(str(model), words, 32, 0.1))

    whole = kernel()(tmp_path / "whole")
    stop_at(kernel(), tmp_path / "cut", 4)
    assert same(kernel()(tmp_path / "cut"), whole)


@pytest.mark.fault
def test_another_tokenizer_of_the_same_size_is_refused(suite, tmp_path, tokenizer):
    stop_at(suite, tmp_path, 4)
    words = tokenizer.get_vocab()
    one, other = [word for word in words if word.isalpha()][:2]
    words[one], words[other] = words[other], words[one]
    suite.tokenizer = type(tokenizer)(vocab=words)
    assert len(suite.tokenizer) == len(tokenizer)
    with refused("holds another run (tokenizer_sha256 was", "or another run_name"):
        suite(tmp_path)


@pytest.mark.parametrize("how", [{"masking": "word"}, {"replace": "100/0/0"}])
def test_other_masks_are_another_run_and_are_resumed_to_the_same_bits(suite, tmp_path, how):
    suite.data = MaskedLMData(suite.train, suite.data.valid, 8, 0.3, 0, STEPS, **how)
    whole = suite(tmp_path / "whole", **how)
    stop_at(suite, tmp_path / "cut", 4, **how)
    with refused("holds another run", f"{next(iter(how))} was"):
        suite(tmp_path / "cut")
    assert same(suite(tmp_path / "cut", **how), whole)


def test_another_thread_count_is_said(suite, tmp_path, capsys):
    stop_at(suite, tmp_path, 4)
    try:
        torch.set_num_threads(2)
        suite(tmp_path)
    finally:
        torch.set_num_threads(1)
    assert "begun with 1 thread(s), goes on with 2" in capsys.readouterr().out


def test_a_new_run_that_was_stopped_says_how_to_go_on_with_that_one(suite, whole):
    true = suite.module.training_step
    suite.module.training_step = lambda *a: os.kill(os.getpid(), signal.SIGINT) or true(*a)
    with refused("stopped at step 1 of 8, saved", 'go on, pass run_name="run-2", resume="auto"'):
        suite(whole.parent, resume="never")
    assert (whole.with_name("run-2") / "checkpoints/last.ckpt").exists()


def test_seconds_are_those_of_all_parts(suite, tmp_path):
    """Also of what came after the last log line."""
    true = suite.module.training_step
    suite.module.training_step = lambda *a: time.sleep(0.1) or true(*a)
    stop_at(suite, tmp_path, 3)
    seconds = read_checked_json(suite(tmp_path) / "run.json")["training"]["seconds"]
    assert seconds >= 0.1 * STEPS


# one run, one trainer


@pytest.mark.fault
def test_a_run_has_one_trainer_and_a_dead_one_keeps_nobody_out(tmp_path):
    lock_run(tmp_path)
    lock_run(tmp_path)  # its holder may
    assert status(fork(lambda: lock_run(tmp_path))) == 1  # refused
    unlock_run(tmp_path)
    assert list(tmp_path.iterdir()) == [] and not HELD_LOCKS
    assert status(fork(lambda: lock_run(tmp_path))) == 0  # it ended without leaving
    lock_run(tmp_path)
    unlock_run(tmp_path)


def fork(function):
    """The number of a new process, without its parent's locks, that calls the function."""
    pid = os.fork()
    if pid == 0:
        kept = list(HELD_LOCKS.values())  # closed, they would still be the parent's
        HELD_LOCKS.clear()
        try:
            function()
            os._exit(0)
        except ValueError as error:
            os._exit(1 if "is being trained in (by process" in str(error) else 2)
        except BaseException:
            os._exit(3 + len(kept))
    return pid


def status(pid):
    """The exit status of such a process, at its end; 1: refused."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.fault
def test_rivals_at_random_moments(tmp_path):
    """Four processes want one folder again and again: never are two in it."""

    def want(seed):
        chance, inside = random.Random(seed), tmp_path / "inside"
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            time.sleep(chance.uniform(0, 0.004))
            try:
                lock_run(tmp_path)
            except ValueError:
                continue
            with open(inside, "x"):  # FileExistsError where two are in
                time.sleep(chance.uniform(0, 0.002))
            inside.unlink()
            with open(tmp_path / "turns", "a") as turns:
                turns.write(f"{seed}\n")
            unlock_run(tmp_path)

    rivals = [fork(lambda n=n: want(n)) for n in range(4)]
    assert [status(pid) for pid in rivals] == [0] * 4
    turns = (tmp_path / "turns").read_text().split()
    assert set(turns) == set("0123") and len(turns) > 50


# stops, faults


@pytest.mark.fault
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_whatever_waits(tmp_path, first, second):
    code = (
        "import sys, threading; from pathlib import Path; from mlm.training.failures import stop_on_signal\n"
        "with stop_on_signal(Path(sys.argv[1])):\n"
        "    print('on', flush=True); lock = threading.Lock(); lock.acquire()\n"
        "    while True:\n        lock.acquire(timeout=100)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mlm.env.files.__file__).parents[2])},
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(first)
    while not (tmp_path / "stop").exists():
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(10) == -second


@pytest.mark.fault
def test_a_folder_that_is_no_folder(suite, tmp_path):
    (tmp_path / "run").write_text("a file")
    with refused("run_name='run'", "cannot be a run's folder", "pass another run_name"):
        suite(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_a_folder_that_is_deleted_while_training(suite, tmp_path, step):
    true = suite.module.training_step

    def training_step(batch, batch_idx):
        if suite.module.trainer.global_step == step:
            shutil.rmtree(tmp_path / "cut/run")
        return true(batch, batch_idx)

    suite.module.training_step = training_step
    with refused("could not be written"):
        suite(tmp_path / "cut")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.fault
def test_disks_of_every_size(suite, whole, tmp_path):
    """Too small, it is one line; with room, the same again goes on to the same bits."""
    disk, lines = tmp_path / "disk", []
    disk.mkdir()
    needed = sum(len(data) for data in files_in(whole).values()) // 1024
    for size in range(100, needed + 900, needed // 12):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        if subprocess.run(mount).returncode:
            pytest.skip("this machine mounts no tmpfs")
        try:
            try:
                suite(disk / "work")
            except ValueError as error:
                lines.append(str(error))
                assert "\n" not in lines[-1] and "could not be" in lines[-1], lines[-1]
                assert str(disk) in lines[-1]
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            assert same(suite(disk / "work"), whole), size
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    assert 3 < len(lines) < 20


@pytest.mark.fault
def test_a_tokenizer_that_finds_no_room(suite, tmp_path, monkeypatch):
    """Its library raises a bare Exception."""

    def full(*_, **__):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(suite.tokenizer), "save_pretrained", full)
    with refused("could not be written (No space left", str(tmp_path), "make room"):
        suite(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.fault
def test_results_that_find_no_room(suite, whole, tmp_path):
    """Trained to the end, then saved.bin, model/ or run.json meet a full disk."""
    disk, lines = tmp_path / "disk", []
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        unlock_run(suite.cell(disk).folder)
        size = sum(path.stat().st_size for path in whole.glob("model/*"))
        for room in range(0, 3 * size, size // 5):
            with open(disk / "ballast", "wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - room)
            try:
                assert same(suite(disk), whole)
            except ValueError as error:
                lines.append(str(error))
                assert str(disk) in lines[-1] and "\n" not in lines[-1], lines[-1]
            (disk / "ballast").unlink()
            for name in ("saved.bin", "run.json"):
                (disk / "run" / name).unlink(missing_ok=True)
        assert same(suite(disk), whole) and 3 < len(lines) < 15
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
