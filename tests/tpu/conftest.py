"""Runs the unchanged notebooks on torch_xla's CPU backend, through Lightning's own XLA strategies.

xla_cpu/sitecustomize.py makes torch_xla report FAKE_TPU devices; nothing else of the path differs
from a TPU's. Each run happens once, whatever number of tests looks at it.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMALL = dict(model="scratch:tiny", precision=32, dropout=0.0, batch_size=8, max_steps=30)


def environment(devices):
    """The process environment for so many XLA devices; 0: as it is."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if devices:
        env |= {
            "FAKE_TPU": str(devices),
            "PYTHONPATH": str(HERE / "xla_cpu"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        }
    return env


def papermill(notebook, folder, devices=0, python=sys.executable, **parameters):
    """Execute a notebook alone in `folder`; (completed process, executed notebook's path)."""
    out = folder / f"{notebook}.out.ipynb"
    values = [str(part) for name in parameters for part in ("-p", name, parameters[name])]
    done = subprocess.run(
        [python, "-m", "papermill", str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(out), *values,
         "--no-progress-bar"],
        cwd=folder, env=environment(devices), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return done, out


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """300 lines of English: few enough that a run takes seconds."""
    from pydoc_data.topics import topics

    lines = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines[:300]) + "\n")
    return path


RUNS = []  # (devices, what differs from SMALL, run) of each training, for the table at the end


@pytest.fixture(scope="session")
def train(tmp_path_factory, text_file):
    """train(devices, **parameters) -> (run.json, run folder) of 04, made once for each set."""

    @functools.cache
    def run(devices=0, **parameters):
        folder = tmp_path_factory.mktemp("run")
        done, _ = papermill(
            "04_train", folder, devices, **{"corpus": text_file, **SMALL, **parameters}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        place = folder / "bert-mlm" / "run"
        history = json.loads((place / "run.json").read_text())
        RUNS.append((devices, parameters, SimpleNamespace(**history, folder=place)))
        return RUNS[-1][-1]

    return run


def pytest_terminal_summary(terminalreporter):
    """Losses and XLA's counts of each training, side by side; 0 devices are the CPU itself."""
    form = "{:>7} {:>5} {:>9} {:>9} {:>12} {:>9} {:>5}  {}".format
    titles = "devices", "steps", "before", "after", "compilations", "fallbacks", "reads", ""
    terminalreporter.write_line(form(*titles))
    for devices, parameters, run in sorted(RUNS, key=lambda r: (r[2].training["steps"], r[0])):
        xla = run.xla or {"compilations": "-", "fallbacks": [], "reads": "-"}
        losses = [f"{figures['loss']:.6f}" for figures in (run.before, run.after)]
        others = {k: v for k, v in parameters.items() if k not in ("max_steps", "epochs")}
        row = (
            devices,
            run.training["steps"],
            *losses,
            xla["compilations"],
            len(xla["fallbacks"]),
            xla["reads"],
        )
        terminalreporter.write_line(form(*row, " ".join(f"{k}={v}" for k, v in others.items())))
