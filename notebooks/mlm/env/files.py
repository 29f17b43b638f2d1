"""Files that are whole: written beside their place, synced, then named; digests tell whether they still are."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
from pathlib import Path

from mlm.env.notebook import NotebookError


def sha256_of(path):
    """The SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# paths


def short_repr(given, most=200):
    """What a person gave, quoted, in one line and not at length."""
    text = repr(str(given))
    return text if len(text) <= most else f"{text[: most // 2]}...'"


def absolute_path(name, given):
    """The absolute path that the parameter `name` gives; ~ is a home folder. It need not exist.

    Raises NotebookError where it can be none.
    """
    try:
        path = Path(given).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
        return path
    except (OSError, RuntimeError, ValueError) as error:
        why = str(getattr(error, "strerror", None) or error).partition(": ")[0]
        raise NotebookError(
            f"{name}={short_repr(given)} is no path ({why}); pass the path of a file or folder"
        ) from None


PATH_KINDS = {
    stat.S_IFREG: "is a file",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def describe_path(path):
    """What stands at a path, as the end of a sentence: "is a folder", "does not exist"."""
    try:
        return PATH_KINDS[stat.S_IFMT(path.stat().st_mode)]
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


# written

DISK_FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # the disk, a share of it, or the size of a file


def write_error(path, error):
    """A NotebookError that says which file could not be written and why; a full disk is named."""
    if error.errno in DISK_FULL:
        return NotebookError(
            f"{path} could not be written: the disk of {path.parent} is full; what was saved before "
            "is kept: make room, then run this again"
        )
    return NotebookError(f"{path} could not be written ({error.strerror or error})")


def partial_path(path):
    """Where this process writes what is to become `path`: no other process has the same name."""
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def move_into_place(part, path):
    """Give a whole file its name; both are on the disk afterwards, whatever is pulled out."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    with contextlib.suppress(OSError):  # not every system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def atomic_write(path, mode="wb", **how):
    """A file to write in, which gets the name `path` when it is whole; on an error nothing changes.

    Raises NotebookError where it cannot be written.
    """
    part = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, mode, **how) as file:
            yield file
        move_into_place(part, path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_stale_parts(folder):
    """Remove what processes of this machine that are gone have left half written below `folder`."""
    for part in folder.rglob(f"*.{socket.gethostname()}-*.part"):
        pid = part.name.rsplit("-", 1)[1].removesuffix(".part")
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            part.unlink(missing_ok=True)
        except OSError:
            continue  # it lives, and is somebody else's


# records


def json_digest(record):
    """The digest of a record's content, whatever the order of its names."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def write_checked_json(path, record):
    """Write a dict as JSON with its own digest, `json_digest`. Raises ValueError where a number is not finite."""
    text = json.dumps({**record, "seal": json_digest(record)}, indent=1, allow_nan=False)
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")


def read_checked_json(path):
    """The dict that `write_checked_json` wrote; None where there is none or it is no longer as written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record.pop("seal") == json_digest(record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sha256_sums(folder, names):
    """{name: SHA-256} of files below `folder`, for a record that vouches for them."""
    return {name: sha256_of(folder / name) for name in names}


def first_damaged(folder, files):
    """The first name in `files`, {name: SHA-256}, that is not as it was written; None if all are."""
    for name, sha256 in files.items():
        try:
            if sha256_of(folder / name) != sha256:
                return name
        except OSError:
            return name
    return None
