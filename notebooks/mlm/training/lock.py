"""One run, one trainer: who trains in a folder holds its lock, and a lock dies with its holder."""

import contextlib
import os
import socket
import time

from pytorch_lightning.utilities import rank_zero_only

from mlm.env.notebook import NotebookError

try:
    import fcntl
except ImportError:  # not a POSIX system: there nobody is kept out
    fcntl = None

HELD_LOCKS = {}  # {path of a lock: its open file}, of this process


def is_main_process():
    """Whether this process is to write: there are others only where torchrun or SLURM started us."""
    return rank_zero_only.rank == 0


def lock_run(folder):
    """Keep all others out of a run's folder until `unlock_run`, or until this process ends.

    Whoever holds it may claim it again. Raises NotebookError where another process does, naming it.
    """
    path = folder.resolve() / "lock"
    if path in HELD_LOCKS:
        if path.exists() and os.path.samestat(os.fstat(HELD_LOCKS[path].fileno()), path.stat()):
            return
        HELD_LOCKS.pop(path).close()  # the folder was deleted under us
    if fcntl is None or not is_main_process():
        return
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # held as long as the run
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NotebookError(
                f"{folder} is being trained in ({file.read() or 'by another process'}): wait for its "
                "end, or pass another run_name; a lock is free as soon as its holder is gone"
            ) from None
        except OSError:  # a network's disk may know no locks
            file.close()
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its holder left, and took the file away, after we had opened it
    HELD_LOCKS[path] = file
    with contextlib.suppress(OSError):  # a full disk: it holds without saying by whom
        file.truncate(0)
        file.write(lock_owner())
        file.flush()


def lock_owner():
    """This process, for whoever meets its lock."""
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"by process {os.getpid()} on {socket.gethostname()} since {began}"


def unlock_run(folder):
    """Let others into a run's folder; nothing where this process does not hold it."""
    path = folder.resolve() / "lock"
    if path in HELD_LOCKS:
        file = HELD_LOCKS.pop(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_UN)  # also for children, which inherited it
        file.close()
