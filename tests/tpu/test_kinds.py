"""Other kinds of models than BERT on XLA: the CPU's losses, nothing compiled anew, nothing on the host."""

import json
import subprocess
import sys

import pytest

from conftest import HERE, environment

KINDS = "bert", "distilbert", "modernbert", "roberta"


@pytest.fixture(scope="module")
def found(text_file):
    env = {**environment(1), "PJRT_DEVICE": "CPU"}
    command = [sys.executable, str(HERE / "kinds.py"), str(text_file), *KINDS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_trains_on_xla_as_on_the_cpu(found, kind):
    run = found[kind]
    assert run["xla"] == pytest.approx(run["cpu"], rel=1e-4)
    assert run["fallbacks"] == []
    assert run["compiled"][2] == run["compiled"][-1]  # the first steps compile, the others do not
