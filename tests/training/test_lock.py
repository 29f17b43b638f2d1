"""Only one process at a time trains in a run's folder, and a lock ends with its process."""

import os
import random
import time

import pytest

from mlm.training.lock import HELD_LOCKS, lock_run, unlock_run
from mlm.training.run import open_run


def fork(function):
    """Call a function in a new process that does not hold its parent's locks; returns its id."""
    pid = os.fork()
    if pid == 0:
        kept = list(HELD_LOCKS.values())  # closing them would release the parent's locks
        HELD_LOCKS.clear()
        try:
            function()
            os._exit(0)
        except ValueError as error:
            os._exit(1 if "is being trained in (by process" in str(error) else 2)
        except BaseException:
            os._exit(3 + len(kept))
    return pid


def exit_status(pid):
    """The exit status of a forked process; 1: the lock was refused."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.fault
def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path):
    lock_run(tmp_path)
    lock_run(tmp_path)  # its holder may lock again
    assert exit_status(fork(lambda: lock_run(tmp_path))) == 1
    unlock_run(tmp_path)
    assert list(tmp_path.iterdir()) == [] and tmp_path / "lock" not in HELD_LOCKS
    assert exit_status(fork(lambda: lock_run(tmp_path))) == 0  # it ended without unlocking
    lock_run(tmp_path)
    unlock_run(tmp_path)


@pytest.mark.fault
def test_a_lock_ends_if_the_loggers_cannot_be_opened(runs, tmp_path, monkeypatch):
    """Then there is no training that would end it."""
    run = open_run(tmp_path, "run", "auto", runs.settings())
    assert run.folder / "lock" in HELD_LOCKS
    monkeypatch.setattr("mlm.training.run.open_loggers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.loggers(6.0, "csv")
    assert run.folder / "lock" not in HELD_LOCKS


@pytest.mark.fault
def test_of_processes_that_lock_at_random_moments_only_one_succeeds_at_a_time(tmp_path):
    def compete(seed):
        rng, inside = random.Random(seed), tmp_path / "inside"
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            time.sleep(rng.uniform(0, 0.004))
            try:
                lock_run(tmp_path)
            except ValueError:
                continue
            with open(inside, "x"):  # FileExistsError if two processes hold the lock
                time.sleep(rng.uniform(0, 0.002))
            inside.unlink()
            with open(tmp_path / "turns", "a") as turns:
                turns.write(f"{seed}\n")
            unlock_run(tmp_path)

    processes = [fork(lambda seed=seed: compete(seed)) for seed in range(4)]
    assert [exit_status(pid) for pid in processes] == [0] * 4
    turns = (tmp_path / "turns").read_text().split()
    assert set(turns) == set("0123") and len(turns) > 40
