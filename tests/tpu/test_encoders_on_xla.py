"""Other encoders than BERT on XLA: the CPU's losses, no recompilation, no operation on the host."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xla_runs import HERE, xla_environment

MODEL_TYPES = "bert", "distilbert", "modernbert", "roberta"


@pytest.fixture(scope="module")
def results(text_file: Path) -> dict[str, Any]:
    """{model type: what train_encoders.py found}."""
    env = {**xla_environment(1), "PJRT_DEVICE": "CPU"}
    command = [sys.executable, str(HERE / "train_encoders.py"), str(text_file), *MODEL_TYPES]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_encoder_trains_on_xla_as_on_the_cpu(results, model_type):
    run = results[model_type]
    assert run["xla"] == pytest.approx(run["cpu"], rel=1e-4)
    assert run["fallbacks"] == []
    assert run["compilations"][2] == run["compilations"][-1]  # only the first steps compile
