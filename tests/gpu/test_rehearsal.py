"""The checks for a real GPU, rehearsed on the CPU: every step runs and writes its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from check import STEPS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The results of a rehearsal, a dict per line."""
    out = tmp_path_factory.mktemp("gpu")
    text = out / "text.txt"
    text.write_text(small_text())
    command = [sys.executable, Path(__file__).with_name("check.py"), "--rehearse"]
    done = subprocess.run(
        [*command, "--out", out, "--text", text], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def small_text() -> str:
    """300 lines of English."""
    from pydoc_data.topics import topics

    lines = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    return "\n".join(lines[:300]) + "\n"


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_a_step_runs_and_writes_results(results, step):
    rows = [row for row in results if row["step"] == step]
    assert len(rows) >= 2 and "done_in_s" in rows[-1], rows


def test_no_measurement_fails_or_is_skipped(results):
    assert [row for row in results if "failed" in row or "skipped" in row] == []


def test_every_process_succeeds_except_those_that_are_stopped_on_purpose(results):
    stopped = [row for row in results if row.get("message") or row["step"] == "memory"]
    others = [row for row in results if "exit_status" in row and row not in stopped]
    assert others and [row for row in others if row["exit_status"] != 0] == []
    assert all(row.get("exit_status", 1) == 1 for row in stopped)


def test_too_little_memory_is_one_line(results):
    rows = [row for row in results if row["step"] == "memory" and "exit_status" in row]
    assert len(rows) == 2
    for row in rows:
        assert "batch_size=8192" in row["one_line"] and "pass batch_size=" in row["one_line"]


def test_a_resumed_run_has_the_same_bits(results):
    compared = [row for row in results if "compared" in row]
    assert len(compared) == 9 and all(row["identical"] for row in compared), compared
