"""The upload to the Hub, against a local server that accepts, refuses, stalls or stops."""

import base64
import contextlib
import http.server
import json
import os
import threading

import huggingface_hub
import pytest

import mlm.inference.upload
from helpers import refused
from mlm.env.files import partial_path
from mlm.inference.upload import TIMEOUT, check_upload, hub_timeout, upload_model

COMMIT = "0" * 39 + "1"


class Hub(http.server.ThreadingHTTPServer):
    """A Hub that stores the files of one model.

    `faults` is {part of a path: what happens to a request for it}: a status code, or "stall" for no
    answer. Weights arrive by PUT, all other files in the commit.
    """

    daemon_threads = True

    def __init__(self, faults=(), exists=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.faults, self.files, self.requests = dict(faults), {}, []
        self.exists = exists  # whether the repository exists
        self.created = None  # the options that it was created with
        self.stopped = threading.Event()

    def answer(self, path, body):
        if path == "/api/repos/create":
            self.created, self.exists = json.loads(body), True
            return {"url": f"{self.address}/you/name", "name": "you/name", "id": "1"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            return {"files": [{"path": n, "uploadMode": mode[n.endswith("tensors")], "shouldIgnore": False}
                              for n in names]}  # fmt: skip
        if path.endswith("/objects/batch"):
            return {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{self.address}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]]}  # fmt: skip
        if path.startswith("/put/"):
            self.files[path.split("/")[-1]] = body
            return {}
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.files[value["path"]] = self.files.pop(value["oid"])
            return {"commitUrl": f"{self.address}/you/name/commit/{COMMIT}", "commitOid": COMMIT}
        return {"errors": [], "warnings": [], "sha": COMMIT, "id": "you/name", "siblings": []}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        fault = next((fault for part, fault in hub.faults.items() if part in self.path), None)
        if fault == "stall":
            hub.stopped.wait(60)
            return
        if self.path == "/api/models/you/name" and not hub.exists:
            fault = 404
        if fault:
            answer = {"error": "no", "url": f"{hub.address}/you/name"}
        else:
            answer = hub.answer(self.path.split("?")[0], body)
        text = json.dumps(answer).encode()
        self.send_response(fault or 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def log_message(self, *args):
        pass


@pytest.fixture
def start_hub(monkeypatch):
    """A function that starts a Hub with faults; huggingface_hub uses it."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            hub = Hub(**options)
            threading.Thread(target=hub.serve_forever, args=[0.02], daemon=True).start()
            stack.callback(hub.shutdown)
            stack.callback(hub.stopped.set)
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
            monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two attempts
            return hub

        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(mlm.inference.upload, "TIMEOUT", 0.3)
        yield start


@pytest.fixture
def folder(tmp_path):
    """The folder of a model; the weights are large enough to be uploaded separately."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    (model / "model.safetensors").write_bytes(os.urandom(100_000))
    return model


def test_all_files_arrive_in_a_private_repository(start_hub, folder):
    hub = start_hub()
    assert upload_model(folder, "you/name") == f"{hub.address}/you/name"
    created = hub.created
    assert created["name"] == "name" and created["organization"] == "you"
    assert "private" in (created.get("visibility"), *(k for k, v in created.items() if v is True))
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    # A PUT needs no token. A thread of an earlier test may still ask for another model.
    ours = [r for r in hub.requests if r[0] == "POST" or (r[0] != "PUT" and "you/name" in r[1])]
    assert {token for _, _, token in ours} == {"Bearer hf_secret"}, hub.requests


def test_hidden_and_unfinished_files_are_not_uploaded(start_hub, folder):
    """The name of an unfinished file contains the name of this machine."""
    expected = {path.name for path in folder.iterdir()} | {"onnx/model.onnx"}
    (folder / "onnx").mkdir()
    (folder / ".ipynb_checkpoints").mkdir()
    unfinished = partial_path(folder / "onnx" / "model.onnx").relative_to(folder)
    hidden = (".DS_Store", "onnx/.DS_Store", ".ipynb_checkpoints/README-checkpoint.md")
    for name in ("onnx/model.onnx", *hidden, unfinished):
        (folder / name).write_bytes(b"x")
    hub = start_hub()
    upload_model(folder, "you/name")
    assert hub.files.keys() == expected


def test_an_existing_repository_is_used(start_hub, folder):
    hub = start_hub(faults={"/repos/create": 409}, exists=True)
    upload_model(folder, "you/name")
    assert hub.files.keys() == {path.name for path in folder.iterdir()}


@pytest.mark.fault
@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/objects/batch", "/commit/"])
@pytest.mark.parametrize("fault", [401, 403, 500, "stall"])
def test_a_failed_upload_is_one_line_without_the_token(start_hub, folder, where, fault, capfd):
    start_hub(faults={where: fault})
    words = ["upload='you/name'", f"the model in {folder} is complete", "run this cell again"]
    if fault in (401, 403):
        words.append("the token has no write access")
    if fault == "stall":
        words.append("timed out")
    with refused(*words) as line:
        upload_model(folder, "you/name")
    assert "hf_secret" not in line() + "".join(capfd.readouterr())


@pytest.mark.fault
def test_an_unreachable_hub_is_an_error_of_one_line(start_hub, folder):
    hub = start_hub()
    hub.shutdown()
    hub.server_close()
    with refused("upload='you/name'", "refused"):
        upload_model(folder, "you/name")


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["a/b/c", "you/", "/name", "you/-name", "you/a b", "you/n\nm", "you/a..b"]
)
def test_an_invalid_name_is_refused_without_a_request(start_hub, name):
    hub = start_hub()
    with refused("upload="):
        check_upload(name)
    assert hub.requests == []


@pytest.mark.fault
def test_without_a_token_nothing_is_sent(start_hub, folder, monkeypatch, tmp_path):
    hub = start_hub()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for call in (lambda: check_upload("you/name"), lambda: upload_model(folder, "you/name")):
        with refused("has no token", "hf auth login", "HF_TOKEN"):
            call()
    assert hub.requests == []
    check_upload(None)


@pytest.mark.fault
def test_without_a_trained_model_there_is_nothing_to_upload(start_hub):
    start_hub()
    check_upload(None, trained=False)
    with refused("upload='you/name': there is no run", "04_train.ipynb"):
        check_upload("you/name", trained=False)


def test_the_timeout_of_the_client_is_restored(start_hub, folder):
    start_hub(faults={"/repos/create": 403})
    before = huggingface_hub.get_session().timeout
    with refused("no write access"):
        upload_model(folder, "you/name")
    assert huggingface_hub.get_session().timeout == before
    assert not huggingface_hub.constants.HF_HUB_DISABLE_XET


def test_a_new_client_has_the_timeout_as_well():
    """huggingface_hub closes its client when a connection is refused."""
    with hub_timeout():
        for _ in range(2):
            assert huggingface_hub.get_session().timeout.read == TIMEOUT
            huggingface_hub.close_session()
