"""Failures and stops reach every process of a run."""

import os
import signal
import sys
import threading
import time
import traceback

import pytest
from torch.multiprocessing import ProcessRaisedException

from mlm.env.notebook import NotebookError
from mlm.training.failures import (
    FAILURE_FILE,
    clear_failure_and_stop,
    quiet_writer_threads,
    report_failure,
    reported_failure,
    request_stop,
    stop_on_signal,
    stop_requested,
)


def wait_for_ever(folder, ready):
    """In a forked process: wait for a lock that is never released; `ready` is written to before."""
    try:
        sys.modules.pop("ipykernel", None)  # in a notebook, a second interrupt only ends the cell
        with stop_on_signal(folder):
            os.write(ready, b"1")
            lock = threading.Lock()
            lock.acquire()
            while True:
                lock.acquire(timeout=100)
    finally:
        os._exit(99)


@pytest.mark.fault
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_requests_a_stop_and_a_second_ends_a_waiting_process(
    tmp_path, first, second
):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        wait_for_ever(tmp_path, writer)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.kill(pid, first)
    end = time.monotonic() + 20
    while not stop_requested(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # still alive
    os.kill(pid, second)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -second


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


def test_a_line_of_another_process_stays_one_line(tmp_path):
    """Lightning raises the traceback of a process that it started, as the text of another error."""
    try:
        raise NotebookError("the loss is nan: try a lower lr")
    except NotebookError:
        text = traceback.format_exc()
    process = "\n\n-- Process 1 terminated with the following error:\n"
    report_failure(tmp_path, ProcessRaisedException(process + text, 1, 4711))
    assert reported_failure(tmp_path) == "the loss is nan: try a lower lr"


def test_an_error_that_could_not_be_written_is_still_an_error(tmp_path):
    """On a full disk, the report is an empty file."""
    (tmp_path / FAILURE_FILE).touch()
    assert "a process failed" in reported_failure(tmp_path)
    assert reported_failure(tmp_path, one_line=True) is None  # the exception says more


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
