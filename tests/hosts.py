"""Local servers for the tests: one that plays a corpus host, one that plays the Hugging Face Hub."""

import contextlib
import hashlib
import http.server
import json
import threading


@contextlib.contextmanager
def serve(answer):
    """Serve on 127.0.0.1 what `answer(path)` returns, (status, headers, body); yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def hub(name, folder):
    """The answers of a Hub that holds the files of `folder` as the model `name`."""
    commit = "0" * 39 + "1"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def answer(path):
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
