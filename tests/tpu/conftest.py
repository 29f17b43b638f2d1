"""Runs the unchanged notebooks on torch_xla's CPU backend, through Lightning's own XLA strategies.

xla_cpu/sitecustomize.py makes torch_xla report FAKE_TPU devices; otherwise the path is the same as on a
TPU. Each training run happens once, however many tests look at it.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from processes import english_text
from xla_runs import SMALL, papermill


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 lines of English: few enough that a run takes seconds."""
    return english_text(tmp_path_factory.mktemp("text"))


RUNS = []  # (devices, parameters that differ from SMALL, results) of each run, for the table at the end


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Callable:
    """train(devices, **parameters): the results of 04 and its folder. Each run happens once."""

    @functools.cache
    def run(devices: int = 0, **parameters: object) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp("run")
        parameters_of_run = {"corpus": text_file, **SMALL, **parameters}
        done, _ = papermill("04_train", folder, devices, **parameters_of_run)
        assert done.returncode == 0, done.stderr[-3000:]
        run_folder = folder / "bert-mlm" / "run"
        results = json.loads((run_folder / "run.json").read_text())
        RUNS.append((devices, parameters, SimpleNamespace(**results, folder=run_folder)))
        return RUNS[-1][-1]

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print losses and XLA's counts of each run, one line each; 0 devices: the CPU without XLA."""
    line = "{:>7} {:>5} {:>9} {:>9} {:>12} {:>9} {:>5}  {}".format
    titles = "devices", "steps", "before", "after", "compilations", "fallbacks", "reads", ""
    terminalreporter.write_line(line(*titles))
    for devices, parameters, run in sorted(RUNS, key=lambda r: (r[2].training["steps"], r[0])):
        xla = run.xla or {"compilations": "-", "fallbacks": [], "reads": "-"}
        others = {k: v for k, v in parameters.items() if k not in ("max_steps", "epochs")}
        terminalreporter.write_line(
            line(
                devices,
                run.training["steps"],
                f"{run.before['loss']:.6f}",
                f"{run.after['loss']:.6f}",
                xla["compilations"],
                len(xla["fallbacks"]),
                xla["reads"],
                " ".join(f"{name}={value}" for name, value in others.items()),
            )
        )
