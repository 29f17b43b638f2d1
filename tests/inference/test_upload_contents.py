"""Nothing that is uploaded or stored with a run names folders, the user, or a secret of the corpus's URL."""

import contextlib
import http.server
import json
import threading
from pathlib import Path

import pytest
import test_upload

import mlm.training.results
from encoders import make_model, make_tokenizer
from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from mlm.data.tokenizer import load_tokenizer
from mlm.env.files import read_checked_json
from mlm.inference.export import export_onnx
from mlm.inference.load import describe_run, find_run, load_initial_model
from mlm.inference.upload import upload_model
from mlm.inference.vectors import write_sentence_transformers
from mlm.models.loading import load_model
from mlm.parameters.check import by_name, check_parameters
from mlm.parameters.corpus import PARAMETERS as CORPUS_PARAMETERS
from mlm.training.results import run_results, save_model, write_results
from small_runs import BASELINE, PARAMETERS, SmallRuns

start_hub = test_upload.start_hub  # a fixture
SECRETS = (
    "S3CR3T",
    "ursula",
    "acme",
    "smith:",
)  # of the URL, the user, a client, the user of the URL


class Texts(http.server.BaseHTTPRequestHandler):
    """A host with one text; /missing does not exist, /moved redirects to a signed address of it."""

    def do_GET(self):
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/missing/elsewhere?X-Signature=S3CR3T")
            self.end_headers()
            return
        body = b"" if self.path.startswith("/missing") else "\n".join(sentences(400)).encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    """host:port of Texts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Texts)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of a client in the home folder of the user ursula, who works in it."""
    place = tmp_path / "home" / "ursula" / "clients" / "acme"
    place.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ursula"))
    monkeypatch.setenv("USER", "ursula")
    monkeypatch.chdir(place)
    return place


def leaks(named_contents):
    """(name, secret, surroundings) of the secrets in names and contents, {name: bytes}."""
    for name, content in named_contents.items():
        for secret in SECRETS:
            for text in (name.encode(), content):
                if (at := text.find(secret.encode())) >= 0:
                    yield name, secret, text[max(0, at - 80) : at + 80]


def files_below(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def save_base_model(place):
    """A folder with a pretrained model whose own configs name folders of its owner."""
    folder = place / "base"
    text = place / "words.txt"
    text.write_text("\n".join(sentences(100)))
    tokenizer = make_tokenizer("bert", text)
    make_model("bert", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        config = json.loads((folder / name).read_text())
        paths = {
            "_name_or_path": "/home/ursula/x",
            "train_file": "/home/ursula/x",
            "cache": "~/acme/x",
        }
        (folder / name).write_text(json.dumps(config | paths))
    return folder


def train(place, corpus, base):
    """04 with this text and model, in a few steps; returns the run's folder and the tokenizer."""
    work = place / "work"
    corpus_folder = load_corpus(corpus, work)
    tokenizer = load_tokenizer(str(base), corpus_folder / "train.txt")
    runs = SmallRuns(corpus_folder, tokenizer, load_model(str(base), tokenizer, max_len=0))
    runs.about_corpus = read_checked_json(corpus_folder / "corpus.json")
    given = PARAMETERS | {
        "corpus": corpus,
        "valid_corpus": f"file://{place}/valid.txt",
        "general": f"file://{place}/general.txt",
        "replay": corpus,
        "model": str(base),
        "workdir": str(work),
    }
    run = runs.train_run(work, model=str(base))
    results = run_results(run, given, runs.about_corpus, runs.train, runs.module.bert, BASELINE)
    assert save_model(runs.module, tokenizer, run)
    write_results(results, run, ["The [MASK] to power."])
    return run.folder, tokenizer


@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_that_is_uploaded_or_stored_names_folders_or_secrets(
    place,
    address,
    start_hub,
    onnx,
    monkeypatch,
    capfd,
):
    monkeypatch.setattr(mlm.training.results, "device_peak", lambda *_: (1e11, "measured"))
    base = save_base_model(place)
    url = f"http://smith:S3CR3T@{address}/a/text.txt?token=S3CR3T"
    folder, tokenizer = train(place, url, base)
    if onnx:
        export_onnx(folder / "model")
    write_sentence_transformers(folder / "model", 16)
    hub = start_hub()
    upload_model(folder / "model", "you/name")
    assert {"README.md", "config.json", "tokenizer_config.json"} <= {*hub.files}
    assert {"modules.json", "sentence_bert_config.json", "1_Pooling/config.json"} <= {*hub.files}
    assert ("onnx/model.onnx" in hub.files) == onnx
    assert not list(leaks(hub.files))
    assert not [request for request in hub.requests if any(s in str(request) for s in SECRETS)]

    everything = files_below(place / "work")
    assert {"run/run.json", "run/checkpoints/last.ckpt", "run/logs/metrics.csv"} <= {*everything}
    assert any("tfevents" in name for name in everything)
    assert not list(leaks(everything))
    assert not any(secret in "".join(capfd.readouterr()) for secret in ("S3CR3T", "smith"))

    about = json.loads((folder / "run.json").read_text())
    assert about["data"]["source"] == f"http://{address}/a/text.txt"
    assert about["parameters"]["valid_corpus"] == "valid.txt"
    card = (folder / "model/README.md").read_text()
    assert f"`http://{address}/a/text.txt`" in card and "from `base`" in card
    assert "base_model" not in card and "- text: The [MASK] to power." in card

    # 05 finds the model before training if it is told where it is
    _, results = find_run(place / "work", "run")
    assert load_initial_model(results, tokenizer, "bert-base-uncased") is None
    assert "the folder 'base'; to compare, set model to its path" in capfd.readouterr().out
    assert load_initial_model(results, tokenizer, str(base)) is not None
    assert "ignored" not in describe_run(folder, results, str(base))


@pytest.mark.parametrize(
    "corpus, name",
    [
        ("file://{place}/text.txt", "text.txt"),
        ("{place}/text.txt", "text.txt"),
        ("~/clients/acme/text.txt", "text.txt"),
        ("../acme/text.txt", "text.txt"),
        (["../acme/text.txt", "http://smith:S3CR3T@{address}/x?S3CR3T"], None),
    ],
)
def test_a_corpus_is_named_without_its_folders(place, address, corpus, name):
    (place / "text.txt").write_text("\n".join(sentences(100, seed=1)))
    texts = [corpus] if isinstance(corpus, str) else corpus
    texts = [text.format(place=place, address=address) for text in texts]
    folder = load_corpus(texts if name is None else texts[0], place / "work")
    assert not list(leaks(files_below(place / "work")))
    source = read_checked_json(folder / "corpus.json")["source"]
    assert source == (name or ["text.txt", f"http://{address}/x"])


@pytest.mark.fault
@pytest.mark.parametrize("path", ["missing", "moved", "text.txt"])
def test_a_failed_download_does_not_print_the_secret(place, address, path, capfd, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if path == "text.txt":
        address = "127.0.0.1:9"  # nobody listens
    with refused("could not be downloaded", f"http://{address}/{path}") as line:
        load_corpus(f"http://smith:S3CR3T@{address}/{path}?token=S3CR3T", place / "work")
    assert not any(s in line() + "".join(capfd.readouterr()) for s in ("S3CR3T", "smith"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "corpus",
    [
        "https://smith:S3CR3T@/text.txt?S3CR3T",
        "https://smith:S3CR3T@host:port/text.txt?S3CR3T",
        "s3://smith:S3C/S3CR3T@bucket/text.txt",
        "ftp://smith:S3CR3T@host/text.txt",
        ["https://smith:S3CR3T@/text.txt?S3CR3T"],
    ],
)
def test_no_error_message_has_the_secret_of_a_url(place, corpus, capfd):
    values = {name: parameter.default for name, parameter in by_name(CORPUS_PARAMETERS).items()}
    check_parameters(values | {"corpus": corpus}, CORPUS_PARAMETERS)
    with refused() as line:
        load_corpus(corpus, place / "work")
    messages = [line()]
    with contextlib.suppress(Exception):
        load_tokenizer(str(corpus), Path("text.txt"))
    with refused() as line:
        load_tokenizer(str(corpus), None)
    messages += [line(), *capfd.readouterr()]
    assert not any(s in message for message in messages for s in ("S3CR3T", "smith"))
