"""Texts without passwords and tokens, as they are shown in messages.

The values that a user passes are needed to fetch a text or to load a model, and for nothing else.
"""

import re
import urllib.parse
from typing import Any

SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)  # one letter is a Windows drive
URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]+:/+[^\s'\"<>]+", re.IGNORECASE)
NO_URL = "file", "hf", "scratch"  # their ? and # belong to a path
PATH_QUERY = re.compile(r"(/[^\s?'\"]*)\?[^\s'\"<>]+")
QUERY = re.compile(r"[?#].*|;\w+=.*", re.DOTALL)
MIN_SECRET = 3  # characters; a shorter part of a URL is not searched for in a message


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
