"""Kill a training run at random moments, resume it each time, and compare it with an uninterrupted run.

    python tests/soak.py [--kills 100] [--folder DIR] [--threads 2]

Prints how many kills the run survived; exits with 1 if weights or history differ in one bit. The kills
(SIGKILL) fall at any moment after the first log line of a process, so also while checkpoints are
written: there is one after every other step.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from processes import english_text, finish, identical, kill_repeatedly, start


def main() -> int:
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    folder = (arguments.folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # A kill comes after a log line, and there is one in 50 steps at most.
    parameters = dict(
        corpus=english_text(folder), model="scratch:tiny", batch_size=4, epochs=1000,
        max_steps=60 * arguments.kills, checkpoint_steps=2,
    )  # fmt: skip
    uninterrupted, killed = folder / "uninterrupted", folder / "killed"
    finish(start(uninterrupted, fork=False, **parameters))
    kills, steps_done = kill_repeatedly(
        killed, arguments.kills, uninterrupted, fork=False, **parameters
    )
    same = identical(uninterrupted, killed)
    print(f"{kills} kills survived, bit-identical: {same}; resumed at steps {steps_done}")
    if kills < arguments.kills:
        print(f"the run ended before kill {kills + 1}: try again on a machine that is not busy")
    return 0 if same and kills == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
