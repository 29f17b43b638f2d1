"""Files are complete or absent, and damage is detected."""

import errno
import os
import socket
from pathlib import Path

import pytest

import mlm.env.files as files
from helpers import refused


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a" / "text.txt"
    with files.atomic_write(path, "w") as file:
        file.write("old")
    with pytest.raises(KeyError), files.atomic_write(path, "w") as file:
        file.write("new")
        raise KeyError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


@pytest.mark.fault
def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "text.txt"
    full = refused(str(path), f"the disk of {tmp_path} is full", "make room")
    with full, files.atomic_write(path, "w"):
        raise OSError(errno.ENOSPC, "No space left on device")
    denied = refused(f"{path} could not be written (Permission denied)")
    with denied, files.atomic_write(path, "w"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert not list(tmp_path.iterdir())


def test_only_incomplete_files_of_ended_processes_are_removed(tmp_path):
    host, ended = socket.gethostname(), 2**22 + 1  # above the largest process id
    for name in (f"a.{host}-{ended}.part", f"b.{host}-{os.getpid()}.part", "c.other-1.part", "d"):
        (tmp_path / name).touch()
    files.remove_stale_parts(tmp_path)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b", "c", "d"]


def test_json_detects_damage(tmp_path):
    path, content = tmp_path / "a.json", {"b": [1, None], "a": "ü"}
    files.write_checked_json(path, content)
    assert files.read_checked_json(path) == content
    for text in (path.read_text().replace("1", "2"), "{}", "[]", "1", "", "{"):
        path.write_text(text)
        assert files.read_checked_json(path) is None
    path.unlink()
    assert files.read_checked_json(path) is None
    with pytest.raises(ValueError):
        files.write_checked_json(path, {"a": float("nan")})


def test_the_first_damaged_file_is_found(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    sums = files.sha256_sums(tmp_path, "abc")
    assert files.first_damaged(tmp_path, sums) is None
    (tmp_path / "c").unlink()
    assert files.first_damaged(tmp_path, sums) == "c"
    (tmp_path / "b").write_text("B")
    assert files.first_damaged(tmp_path, sums) == "b"


def test_paths_are_described(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    found = [files.describe_path(tmp_path / name) for name in (".", "file", "pipe", "no", "file/x")]
    assert found == ["is a folder", "is a file", "is a pipe", "does not exist", "does not exist"]
    assert files.absolute_path("workdir", "~/x") == Path.home().resolve() / "x"


@pytest.mark.fault
@pytest.mark.parametrize("value", ["a\0b", "x" * 300 + "/y"])
def test_what_cannot_be_a_path_is_refused(value):
    with refused("workdir=", "is not a path", "pass the path of a file or folder") as line:
        files.absolute_path("workdir", value)
    assert len(line()) < 250


@pytest.mark.fault
def test_a_deleted_working_folder_is_named_as_the_cause(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with refused("workdir='runs'", "the folder that this notebook runs in was deleted"):
        files.absolute_path("workdir", "runs")
