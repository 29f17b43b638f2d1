"""Failures and stops reach every process of a run."""

import os
import signal
import threading
import time

import pytest

from helpers import start_python
from mlm.env.notebook import NotebookError
from mlm.training.failures import (
    clear_failure_and_stop,
    quiet_writer_threads,
    report_failure,
    reported_failure,
    request_stop,
    stop_requested,
)

WAIT_FOR_EVER = """
import threading
from pathlib import Path
from mlm.training.failures import stop_on_signal
with stop_on_signal(Path(sys.argv[1])):
    print("ready", flush=True)
    lock = threading.Lock()
    lock.acquire()
    while True:
        lock.acquire(timeout=100)
"""


@pytest.mark.fault
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_requests_a_stop_and_a_second_ends_a_waiting_process(
    tmp_path, first, second
):
    process = start_python(WAIT_FOR_EVER, tmp_path)
    process.stdout.readline()
    process.send_signal(first)
    end = time.monotonic() + 20
    while not stop_requested(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(10) == -second


def test_an_error_is_reported_in_one_line_or_with_its_traceback(tmp_path, capsys):
    assert reported_failure(tmp_path) is None
    report_failure(tmp_path, NotebookError("the disk is full: make room"))
    assert reported_failure(tmp_path) == "the disk is full: make room"
    clear_failure_and_stop(tmp_path)
    assert reported_failure(tmp_path) is None
    try:
        raise IndexError("example 7")
    except IndexError as error:
        report_failure(tmp_path, error)
    assert "the error above" in reported_failure(tmp_path)
    output = capsys.readouterr().out
    assert "Traceback" in output and "IndexError: example 7" in output


def test_the_first_reported_error_is_kept(tmp_path):
    for text in ("the cause", "a consequence"):
        report_failure(tmp_path, NotebookError(text))
    assert reported_failure(tmp_path) == "the cause"


def test_a_stop_is_requested_until_it_is_cleared(tmp_path):
    assert not stop_requested(tmp_path)
    request_stop(tmp_path)
    assert stop_requested(tmp_path)
    clear_failure_and_stop(tmp_path)
    assert not stop_requested(tmp_path) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("error, lines", [(OSError("disk full"), 0), (ValueError("a bug"), 1)])
def test_only_write_errors_of_threads_are_quiet(monkeypatch, error, lines):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def fail():
        raise error

    with quiet_writer_threads():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert len(shown) == lines
