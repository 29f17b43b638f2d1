"""A lock on a run's folder: only one process at a time trains there. It ends with its process."""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from pytorch_lightning.utilities import rank_zero_only

from mlm.env.notebook import NotebookError

HELD_LOCKS: dict[Path, IO[str]] = {}  # {path of a lock file: the open file} of this process


def is_main_process() -> bool:
    """Whether this process writes files. There are others only if torchrun or SLURM started them."""
    return rank_zero_only.rank == 0


def lock_run(folder: Path) -> None:
    """Lock a run's folder until `unlock_run` or until this process ends.

    The process that holds the lock may lock again. Raises NotebookError if another process holds it,
    naming that process.
    """
    path = folder.resolve() / "lock"
    if path in HELD_LOCKS:
        if path.exists() and os.path.samestat(os.fstat(HELD_LOCKS[path].fileno()), path.stat()):
            return
        HELD_LOCKS.pop(path).close()  # the folder was deleted meanwhile
    if not is_main_process():
        return
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NotebookError(
                f"{folder} is being trained in ({file.read() or 'by another process'}): wait until it "
                "ends, or pass another run_name; a lock ends with its process"
            ) from None
        except OSError:  # some network file systems have no locks
            file.close()
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the last holder deleted the file after we had opened it: try again
    HELD_LOCKS[path] = file
    with contextlib.suppress(OSError):  # disk full: the lock holds without the owner's name
        file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"by process {os.getpid()} on {socket.gethostname()} since {began}")
        file.flush()


def unlock_run(folder: Path) -> None:
    """Release the lock on a run's folder, if this process holds it."""
    path = folder.resolve() / "lock"
    if path in HELD_LOCKS:
        file = HELD_LOCKS.pop(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_UN)  # releases it for children that inherited the file, too
        file.close()
