"""Run notebooks on torch_xla's CPU backend, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import ROOT, RUNNER, TRAINING, pairs

HERE = Path(__file__).parent
SMALL = dict(model="scratch:tiny", precision=32, dropout=0.0, batch_size=8, max_steps=30)


def xla_environment(devices: int) -> dict[str, str]:
    """The environment of a process with this number of XLA devices; 0: without XLA."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if devices:
        env |= {
            "FAKE_TPU": str(devices),
            "PYTHONPATH": str(HERE / "xla_cpu"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        }
    return env


def papermill(
    notebook: str, folder: Path, devices: int = 0, python: str = sys.executable, **parameters: Any
) -> tuple[subprocess.CompletedProcess, Path]:
    """Execute a notebook in `folder`; (completed process, path of the executed notebook)."""
    source, out = ROOT / "notebooks" / f"{notebook}.ipynb", folder / f"{notebook}.out.ipynb"
    command = [python, "-m", "papermill", str(source), str(out), "--no-progress-bar"]
    done = subprocess.run(
        [*command, *pairs(parameters)], cwd=folder, env=xla_environment(devices),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return done, out


def start_on_xla(
    folder: Path, devices: int, options: list[str] | None = None, **parameters: Any
) -> subprocess.Popen:
    """Start 04 in one plain process in `folder`, which can be signalled; options of run_notebook.py."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(RUNNER), str(TRAINING), *(options or []), *pairs(parameters)],
        cwd=folder, env=xla_environment(devices), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
