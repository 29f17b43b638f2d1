"""Notebooks in processes of their own, which tests start, kill, signal and compare.

A new process would import torch, Lightning and transformers for 8 seconds. So one process imports them
and then forks a process for each notebook (tests/run_notebook.py --serve): it starts in a moment, and is
killed, signalled and resumed like any other. The library itself is imported in the new process.
"""

import atexit
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / "notebooks" / "04_train.ipynb"
CALLBACK_STATE = "Keeper"  # where a checkpoint has the history; older versions named it so
RUNNER = Path(__file__).with_name("run_notebook.py")


def environment(threads: int | None = 1) -> dict[str, str]:
    """The environment of a notebook's process: how threads divide sums decides how these are rounded.

    The number of threads is OMP_NUM_THREADS where that is set, else `threads`; None leaves the choice
    to torch.
    """
    chosen = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return {**chosen, **os.environ, "TOKENIZERS_PARALLELISM": "false"}


def pairs(parameters: dict[str, Any]) -> list[str]:
    """Parameters as papermill and run_notebook.py take them: -p NAME VALUE ..."""
    return [str(part) for name, value in parameters.items() for part in ("-p", name, value)]


@cache
def server() -> socket.socket:
    """The socket of the process that forks the others. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), "--serve", str(theirs.fileno())],
        env=environment(), pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


class ForkedProcess:
    """A notebook in a forked process, with the part of subprocess.Popen's interface that the tests use."""

    def __init__(self, arguments: Sequence[str], folder: Path):
        """Start run_notebook.py with these arguments in `folder`."""
        (output, output_end), (self.status, status_end) = os.pipe(), os.pipe()
        request = dict(arguments=arguments, folder=str(folder), environment=environment())
        connection = server()
        socket.send_fds(connection, [json.dumps(request).encode()], [output_end, status_end])
        os.close(output_end)
        os.close(status_end)
        self.pid = int(connection.recv(64))
        self.stdout = os.fdopen(output, errors="replace")
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """(rest of the output, None) at the end of the process, which is killed after `timeout` seconds."""
        timer = threading.Timer(timeout, self.send_signal, [signal.SIGKILL])
        timer.start()
        try:
            rest = self.stdout.read()
            self.returncode = int(os.read(self.status, 64))
        finally:
            timer.cancel()
        self.stdout.close()
        os.close(self.status)
        return rest, None


Process = ForkedProcess | subprocess.Popen


def start(
    folder: Path,
    notebook: Path = TRAINING,
    patch: Path | None = None,
    fork: bool = True,
    threads: int | None = 1,
    **parameters: Any,
) -> Process:
    """Start a notebook in `folder`, with a patch that is executed after its library cell.

    `fork=False` starts a new Python, in which torch can have another number of threads.
    """
    folder.mkdir(exist_ok=True)
    if notebook.name == TRAINING.name:  # timing may choose others in each process: other bits
        parameters = {"kernels": "default-matmul-16bit", **parameters}
    arguments = [str(notebook), *(["--patch", str(patch)] if patch else []), *pairs(parameters)]
    if fork:
        return ForkedProcess(arguments, folder)
    return subprocess.Popen(
        [sys.executable, str(RUNNER), *arguments], cwd=folder, env=environment(threads), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: Process, code: int = 0) -> str:
    """Wait for a process, which must end with this exit status; its output."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output[-3000:]
    return output


def refusal(output: str) -> str:
    """The one line of a NotebookError in an output."""
    (line,) = set(re.findall(r"NotebookError: .*", output))
    return line


# training runs


def english_text(folder: Path) -> Path:
    """Write a small English text into `folder`; its path."""
    from pydoc_data.topics import topics

    lines = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    path = folder / "text.txt"
    path.write_text("\n".join(lines[:300]) + "\n")
    return path


Result = tuple[dict[str, torch.Tensor], list[dict[str, float]]]


def result(folder: Path) -> Result:
    """(weights, history without speeds) of the finished run in `folder`."""
    run = folder / "bert-mlm" / "run"
    callbacks = torch.load(run / "checkpoints" / "last.ckpt")["callbacks"]
    history = [
        {name: value for name, value in row.items() if name != "tokens_per_second"}
        for row in callbacks[CALLBACK_STATE]["history"]
    ]
    return torch.load(run / "saved.bin"), history


def identical(one: Path, other: Path) -> bool:
    """Whether the runs in two folders agree in every bit of their weights and their histories."""
    (weights, history), (other_weights, other_history) = result(one), result(other)
    return (
        history == other_history
        and weights.keys() == other_weights.keys()
        and all(torch.equal(weights[name], other_weights[name]) for name in weights)
    )


def kill_repeatedly(
    folder: Path, count: int, uninterrupted: Path, fork: bool = True, **parameters: Any
) -> tuple[int, list[int]]:
    """Kill a run `count` times while it trains, then let it end; (kills, steps done at each start).

    A kill falls at a random moment after the first log line of a process, so also while a checkpoint is
    written. The time between log lines and kills is at most half of the training time of the run in the
    folder `uninterrupted`, so that a fast machine does not finish before the last kill.
    """
    results = json.loads((uninterrupted / "bert-mlm" / "run" / "run.json").read_text())
    longest = results["training"]["seconds"] / 2 / count
    random_number, steps_done, kills = random.Random(0), [], 0
    while True:
        process = start(folder, fork=fork, **parameters)
        assert process.stdout
        for line in process.stdout:
            if "steps are done" in line:
                steps_done.append(int(line.split(": ")[1].split()[0].replace(",", "")))
            if kills < count and line.startswith("step ") and "training loss" in line:
                time.sleep(random_number.uniform(0, longest))
                process.send_signal(signal.SIGKILL)
                break
        rest = process.communicate()[0]
        if process.returncode == 0:
            return kills, steps_done
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(rest[-3000:])
        kills += 1
