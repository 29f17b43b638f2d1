"""The upload to the Hub, against one on this machine that accepts, refuses, stalls or breaks off."""

import base64
import contextlib
import http.server
import json
import os
import threading

import huggingface_hub
import pytest

import mlm.inference.export
from helpers import refused
from mlm.inference.upload import check_upload, upload_model

COMMIT = "0" * 39 + "1"


class Hub(http.server.ThreadingHTTPServer):
    """A Hub that takes one model's files; `faults` is {a part of a path: what happens there}.

    What happens: a status to answer with, or "stall". Weights are put, all other files committed.
    """

    daemon_threads = True

    def __init__(self, faults=(), there=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.faults, self.files, self.asked = dict(faults), {}, []
        self.there, self.made = there, None  # whether the repository is there; how it was asked for
        self.over = threading.Event()

    def answer(self, path, body):
        if path == "/api/repos/create":
            self.made, self.there = json.loads(body), True
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
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
        fault = next((what for part, what in hub.faults.items() if part in self.path), 200)
        if fault == "stall":
            hub.over.wait(60)
            return
        if self.path == "/api/models/you/name" and not hub.there:
            fault = 404
        answer = (
            {"error": "no", "url": f"{hub.address}/you/name"}
            if fault != 200
            else hub.answer(self.path.split("?")[0], body)
        )
        text = json.dumps(answer).encode()
        self.send_response(fault)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def log_message(self, *args):
        pass


@pytest.fixture
def start(monkeypatch):
    """A function that starts a Hub with faults, and makes it everybody's."""
    with contextlib.ExitStack() as stack:

        def make(**how):
            hub = Hub(**how)
            threading.Thread(target=hub.serve_forever, daemon=True).start()
            stack.callback(hub.shutdown)
            stack.callback(hub.over.set)
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
            monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two tries
            return hub

        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(mlm.inference.export, "PATIENCE", 0.3)
        yield make


@pytest.fixture
def folder(tmp_path):
    """A model's folder, with a file that goes another way than the others."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    (made / "model.safetensors").write_bytes(os.urandom(100_000))
    return made


def test_it_arrives_whole_and_private(start, folder):
    hub = start()
    assert upload_model(folder, "you/name") == f"{hub.address}/you/name"
    assert hub.made["name"] == "name" and hub.made["organization"] == "you"
    assert "private" in (hub.made.get("visibility"), *(k for k, v in hub.made.items() if v is True))
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    # what is put needs no token; a thread that an earlier test left may ask for another model
    ours = [a for a in hub.asked if a[0] == "POST" or (a[0] != "PUT" and "you/name" in a[1])]
    assert {token for _, _, token in ours} == {"Bearer hf_secret"}, hub.asked


def test_a_repository_that_is_there_is_used(start, folder):
    hub = start(faults={"/repos/create": 409}, there=True)
    upload_model(folder, "you/name")
    assert hub.files.keys() == {path.name for path in folder.iterdir()}


@pytest.mark.fault
@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/objects/batch", "/commit/"])
@pytest.mark.parametrize("fault", [401, 403, 500, "stall"])
def test_a_hub_that_does_not_take_it(start, folder, where, fault, capfd):
    start(faults={where: fault})
    words = ["upload='you/name'", f"the model is whole in {folder}", "run this cell again"]
    if fault in (401, 403):
        words.append("the token may not write there")
    if fault == "stall":
        words.append("timed out")
    with refused(*words) as line:
        upload_model(folder, "you/name")
    assert "hf_secret" not in line() + "".join(capfd.readouterr())


@pytest.mark.fault
def test_a_hub_that_is_not_there(start, folder):
    hub = start()
    hub.shutdown()
    hub.server_close()
    with refused("upload='you/name'", "refused"):
        upload_model(folder, "you/name")


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["a/b/c", "you/", "/name", "you/-name", "you/a b", "you/n\nm", "you/a..b"]
)
def test_a_name_that_the_hub_would_not_take(start, folder, name):
    hub = start()
    with refused("upload="):
        check_upload(name)
    assert hub.asked == []


@pytest.mark.fault
def test_nothing_is_sent_without_a_token(start, folder, monkeypatch, tmp_path):
    hub = start()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for call in (lambda: check_upload("you/name"), lambda: upload_model(folder, "you/name")):
        with refused("there is no token", "hf auth login", "HF_TOKEN"):
            call()
    assert hub.asked == []
    check_upload(None)


@pytest.mark.fault
def test_only_what_was_trained_is_uploaded(start):
    start()
    check_upload(None, trained=False)
    with refused("upload='you/name': no run is there", "04_train.ipynb"):
        check_upload("you/name", trained=False)


def test_the_hubs_client_is_as_patient_as_before(start, folder):
    """Afterwards: what else uses it may want to wait."""
    start(faults={"/repos/create": 403})
    session = huggingface_hub.get_session()
    before = session.timeout
    with refused("may not write"):
        upload_model(folder, "you/name")
    assert session.timeout == before and not huggingface_hub.constants.HF_HUB_DISABLE_XET
