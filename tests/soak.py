"""Kill a training run at random moments, go on each time, and compare with one that was left alone.

    python tests/soak.py [--cuts 100] [--folder DIR] [--threads 2]

Prints how many cuts were survived; exit 1 if weights or history differ in one bit. The kills (SIGKILL)
fall anywhere after the first log line of a process, so while checkpoints are written too: one is
written after every other step.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RUN = [sys.executable, str(ROOT / "tests/run_notebook.py"), str(ROOT / "notebooks/04_train.ipynb")]


def english(folder):
    """A small English text in `folder`; its path."""
    from pydoc_data.topics import topics

    lines = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    path = folder / "text.txt"
    path.write_text("\n".join(lines[:300]) + "\n")
    return path


def start(folder, **parameters):
    """04_train in a process of its own, in `folder`; a Popen with its output as text.

    With one thread, where the environment does not ask for more: so many round their sums alike.
    """
    folder.mkdir(exist_ok=True)
    values = [str(part) for name in parameters for part in ("-p", name, parameters[name])]
    return subprocess.Popen(
        [*RUN, *values], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"OMP_NUM_THREADS": "1", **os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip


def result(folder):
    """What a finished run left: (weights, history without speeds)."""
    place = folder / "bert-mlm/run"
    keeper = torch.load(place / "checkpoints/last.ckpt")["callbacks"]["Keeper"]
    history = [
        {k: v for k, v in row.items() if k != "tokens_per_second"} for row in keeper["history"]
    ]
    return torch.load(place / "saved.bin"), history


def cut_often(folder, cuts, whole, **parameters):
    """Kill the run `cuts` times while it trains, then let it end; (cuts made, steps done at each start).

    All the time between first log lines and kills is at most half of what the run in the folder `whole`
    trained, so that a fast machine does not end before the last cut.
    """
    seconds = json.loads((whole / "bert-mlm/run/run.json").read_text())["training"]["seconds"]
    chance, done_at, made = random.Random(0), [], 0
    while True:
        process = start(folder, **parameters)
        for line in process.stdout:
            if "steps are done" in line:
                done_at.append(int(line.split(": ")[1].split()[0].replace(",", "")))
            if made < cuts and line.startswith("step ") and "training loss" in line:
                time.sleep(chance.uniform(0, seconds / 2 / cuts))
                process.send_signal(signal.SIGKILL)
                break
        rest = process.communicate()[0]
        if process.returncode == 0:
            return made, done_at
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(rest[-3000:])
        made += 1


def same(one, other):
    """Whether two results agree in every bit."""
    weights = one[0].keys() == other[0].keys() and all(
        torch.equal(one[0][k], other[0][k]) for k in one[0]
    )
    return weights and one[1] == other[1]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    folder = (arguments.folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # a cut comes after a log line, of which there is one in 50 steps at most
    parameters = dict(
        corpus=english(folder), model="scratch:tiny", batch_size=4, epochs=1000,
        max_steps=60 * arguments.cuts, checkpoint_steps=2,
    )  # fmt: skip
    whole = start(folder / "whole", **parameters)
    output = whole.communicate()[0]
    if whole.returncode:
        raise SystemExit(output[-3000:])
    made, done_at = cut_often(folder / "cut", arguments.cuts, folder / "whole", **parameters)
    agree = same(result(folder / "whole"), result(folder / "cut"))
    print(f"{made} cuts survived, bit-identical: {agree}; starts at {done_at}")
    if made < arguments.cuts:
        print(f"the run ended before its cut {made + 1}: try again on a machine that is not busy")
    return 0 if agree and made == arguments.cuts else 1


if __name__ == "__main__":
    sys.exit(main())
