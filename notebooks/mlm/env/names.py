"""Texts and models as they are stored and uploaded: without passwords, tokens and folders of this machine."""

import hashlib
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm.env.scratch import PREFIX, scratch_source
from mlm.env.secrets import SCHEME, shown_value, without_secrets

HUB_NAME = re.compile(r"(\w[\w.-]{,95}/)?\w[\w.-]{,95}", re.ASCII)
FOLDER_DIGEST = re.compile(r" \(folder [0-9a-f]{8}\)$")  # written by `stored_model`
LOCAL_PATH = re.compile(r"~[\w.-]*/|/[^/\s]+/|[a-z]:[\\/]|\\\\|file:", re.IGNORECASE)
LOCAL_FOLDER = "a local folder"  # one whose own name says who the user is


def without_paths(content: Any) -> Any:
    """A JSON value without the entries of objects that are paths of a machine, and without secrets."""
    if isinstance(content, dict):
        return {
            name: without_paths(value)
            for name, value in content.items()
            if not (isinstance(value, str) and LOCAL_PATH.match(value))
        }
    if isinstance(content, list):
        return [without_paths(each) for each in content]
    return shown_value(content)


def is_path(source: str) -> bool:
    """Whether a text or model looks like a path: it has a folder, or begins with ~ or a dot."""
    return bool(re.search(r"[\\/]", source)) or source.startswith(("~", "."))


def public_name(source: str) -> str:
    """The name of a text or model for files that may be given away.

    Of a URL: host and path. Of a path: its last part, a file's or folder's own name. Names such as
    "pydoc" and "hf:NAME:train" stay as they are.
    """
    source = FOLDER_DIGEST.sub("", source)
    if untrained := scratch_source(source):
        return PREFIX + public_name(untrained)
    scheme = SCHEME.match(source)
    if scheme and scheme[1].lower() != "file":
        return without_secrets(source)
    path = urllib.request.url2pathname(source[scheme.end() - 1 :]) if scheme else source
    if not is_path(path) or path.startswith("hf:"):
        return source
    last = re.split(r"[\\/]+", path.rstrip("\\/"))[-1]
    personal = {"", ".", "..", Path.home().name, Path.cwd().name}
    return LOCAL_FOLDER if last in personal or last.startswith("~") else last


def public_names(source: str | list[str]) -> str | list[str]:
    """`public_name` of a text, or of each text in a list."""
    return (
        [public_name(each) for each in source] if isinstance(source, list) else public_name(source)
    )


def public_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of 04 as they are stored in run.json: without secrets and folders of this machine."""
    names = "corpus", "valid_corpus", "general", "replay", "workdir"
    public = {name: public_names(values[name]) for name in names if values.get(name) is not None}
    return {**values, **public, "model": stored_model(values["model"])}


def text_name(source: str | list[str]) -> str:
    """The name of a text, or the names of several texts."""
    return ", ".join(map(public_name, [source] if isinstance(source, str) else source))


def stored_model(model: str) -> str:
    """What files say about the parameter `model`: of a folder, its name and a digest of its path.

    The digest tells folders of the same name apart. Hub names and "scratch:tiny" stay as they are.
    """
    if untrained := scratch_source(model):
        return PREFIX + stored_model(untrained)
    on_hub = HUB_NAME.fullmatch(model) and not Path(model).exists()
    if on_hub or not (is_path(model) or Path(model).exists()):
        return model
    path = Path(model).expanduser().resolve()
    return f"{public_name(model)} (folder {hashlib.sha256(str(path).encode()).hexdigest()[:8]})"
