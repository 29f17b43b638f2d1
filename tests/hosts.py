"""Local servers for the tests: one for a text to download, one that stands in for the Hugging Face Hub."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


@contextlib.contextmanager
def serve(answer: Callable[[str], Answer]) -> Iterator[str]:
    """Serve `answer(path)` on 127.0.0.1; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def hub(name: str, folder: Path) -> Callable[[str], Answer]:
    """The answers of a Hub that holds the files of `folder` as the model `name`."""
    commit = "0" * 39 + "1"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def answer(path: str) -> Answer:
        path = path.split("?")[0]
        if path.startswith(f"/api/models/{name}/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": "0"} for n, b in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if path.startswith(f"/api/models/{name}"):
            about = {"id": name, "sha": commit, "siblings": [{"rfilename": n} for n in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        parts = path.strip("/").split("/")
        if path.startswith(f"/{name}/resolve/") and parts[-1] in files:
            body = files[parts[-1]]
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            return 200, {"ETag": etag, "X-Repo-Commit": commit}, body
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""

    return answer
