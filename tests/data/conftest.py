"""A web host that misbehaves, for the tests of downloads."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pooch.core
import pytest

import mlm.data.download
from texts import LINES

BODY = "\n".join(LINES).encode()


class Host(http.server.BaseHTTPRequestHandler):
    """A host of texts that misbehaves as the first part of the path says."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        action = self.path.strip("/").split("/")[0].split("?")[0]
        if action == "never":  # no answer at all
            self.server.is_over.wait(20)
        elif action == "stalls":  # the first half, then nothing more
            self.answer(200, BODY[: len(BODY) // 2], {"Content-Length": len(BODY)})
            self.server.is_over.wait(20)
        elif action == "cut":  # the first half, then the connection closes
            self.answer(200, BODY[: len(BODY) // 2], {"Content-Length": len(BODY)})
        elif action == "loop":
            self.answer(302, b"", {"Location": self.path})
        elif action == "moved":
            self.answer(301, b"", {"Location": "/ok"})
        elif action == "other":
            self.answer(200, b"other bytes\n" * 100)
        elif action.isdigit():
            self.answer(int(action), b"no text here\n" * 100)
        else:
            self.answer(200, self.server.texts.get(self.path, BODY))

    def answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def no_waiting(monkeypatch):
    """pooch retries at once."""
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def host(monkeypatch, no_waiting) -> Iterator[SimpleNamespace]:
    """A Host on this machine: its `url`, the `requests` it got (paths), `body`, the text it serves
    by default, and `texts`, {path: other texts}."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.requests, server.is_over, server.texts = [], threading.Event(), {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield SimpleNamespace(url=url, requests=server.requests, body=BODY, texts=server.texts)
    server.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def set_nietzsche_urls(monkeypatch) -> Callable:
    """A function after which "nietzsche" is the Host's default text at the given URLs."""
    sha256 = hashlib.sha256(BODY).hexdigest()

    def set_urls(*urls: str) -> None:
        known = {"urls": urls, "sha256": sha256}
        monkeypatch.setattr(mlm.data.download, "NIETZSCHE", known)

    return set_urls
