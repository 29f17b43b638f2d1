"""Texts and models as they are shown and stored: without passwords, tokens and folders of this machine.

The values that a user passes are needed to fetch a text or to load a model, and for nothing else.
"""

import hashlib
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from mlm.env.scratch import PREFIX, scratch_source

SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)  # one letter is a Windows drive
URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]+:/+[^\s'\"<>]+", re.IGNORECASE)
NO_URL = "file", "hf", PREFIX[:-1]  # their ? and # belong to a path
PATH_QUERY = re.compile(r"(/[^\s?'\"]*)\?[^\s'\"<>]+")
QUERY = re.compile(r"[?#].*|;\w+=.*", re.DOTALL)
HUB_NAME = re.compile(r"(\w[\w.-]{,95}/)?\w[\w.-]{,95}", re.ASCII)
FOLDER_DIGEST = re.compile(r" \(folder [0-9a-f]{8}\)$")  # written by `stored_model`
LOCAL_PATH = re.compile(r"~[\w.-]*/|/[^/\s]+/|[a-z]:[\\/]|\\\\|file:", re.IGNORECASE)
LOCAL_FOLDER = "a local folder"  # one whose own name says who the user is
MIN_SECRET = 3  # characters; a shorter part of a URL is not searched for in a message


# messages


def without_secrets(location: str) -> str:
    """A URL without user name, password, query and fragment; anything else unchanged."""
    scheme = SCHEME.match(location)
    if not scheme or scheme[1].lower() in NO_URL:
        return location
    rest = location[scheme.end() :]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = host.rpartition(":")[2] if ":" in host else ""
    if "@" in host:
        rest = rest[host.rindex("@") + 1 :]
    elif port.strip("0123456789") and not host.endswith("]"):  # a password with / ? or #
        rest = rest.rpartition("@")[2] if "@" in rest else rest.removeprefix(host)
    return location[: scheme.end()] + QUERY.sub("", rest)


def secrets_of(url: str) -> set[str]:
    """The parts of a URL that `without_secrets` removes, also as they are written in messages."""
    if without_secrets(url) == url:
        return set()
    start = SCHEME.match(url).end()  # type: ignore[union-attr]
    host = without_secrets(url)[start:].split("/", 1)[0]
    userinfo, at, after = url[start:].partition(f"@{host}")
    if not at:
        userinfo, after = "", url[start:].removeprefix(host)
    query = (QUERY.search(after) or [""])[0][1:]
    parts = [userinfo, *userinfo.split(":", 1), *re.split("[:/?#@]", userinfo)]
    parts += [query, *query.split("&"), *(each.partition("=")[2] for each in query.split("&"))]
    forms = (urllib.parse.quote, urllib.parse.unquote, urllib.parse.unquote_plus)
    found = {form(part) for part in parts for form in (str, *forms)}
    return {part for part in found if len(part) >= MIN_SECRET}


def hide_secrets(message: str, url: str = "") -> str:
    """A message without the passwords and tokens in its URLs and in `url`."""
    for secret in sorted(secrets_of(url), key=len, reverse=True):
        message = message.replace(secret, "...")
    if url:  # urllib3 names the path alone, also after a redirect
        message = PATH_QUERY.sub(r"\1", message)
    return URL_IN_TEXT.sub(lambda match: without_secrets(match[0]), message)


def shown_value(value: Any) -> Any:
    """The value of a parameter as it is printed: texts, and texts in a list, without secrets."""
    if isinstance(value, list):
        return [shown_value(each) for each in value]
    if not isinstance(value, str):
        return value
    return without_secrets(value) if SCHEME.match(value) else hide_secrets(value)


# what is stored and uploaded


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
