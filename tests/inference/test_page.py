"""The browser page: what is written, what is refused, and, in Chromium, the same predictions as in Python."""

import contextlib
import functools
import html
import http.server
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.parse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

import mlm.inference.npm_packages
import mlm.inference.page
from encoders import make_model, make_tokenizer
from helpers import refused
from languages import TEXTS
from mlm.data.tokenizer import load_tokenizer
from mlm.env.files import sha256_of
from mlm.inference.export import export_onnx, onnx_session
from mlm.inference.mask_token import with_mask
from mlm.inference.npm_packages import PACKAGES, NpmPackage, check_archives, unpack_archives
from mlm.inference.page import check_page, write_page
from mlm.inference.page_template import PAGE
from mlm.inference.quantize import quantize_onnx

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A folder with archives that have the names of the real ones, and their names as contents."""
    packages = []
    for package in PACKAGES:
        with tarfile.open(tmp_path / package.archive, "w:gz") as archive:
            for name in package.files:
                content = f"{package.name} {name}".encode()
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        sha256 = sha256_of(tmp_path / package.archive)
        packages.append(NpmPackage(package.name, package.version, sha256, package.files))
    monkeypatch.setattr(mlm.inference.npm_packages, "PACKAGES", tuple(packages))
    return tmp_path


def test_the_files_of_the_libraries_are_unpacked(archives, tmp_path):
    unpack_archives(archives, tmp_path / "page")
    expected = {name for package in PACKAGES for name in package.files.values()}
    assert {path.name for path in (tmp_path / "page").iterdir()} == expected
    text = (tmp_path / "page" / "tokenizers.mjs").read_text()
    assert text == "@huggingface/tokenizers dist/tokenizers.min.mjs"


@pytest.mark.fault
def test_a_missing_or_damaged_archive_is_refused_with_the_command(archives):
    check_archives(archives)
    path = archives / PACKAGES[1].archive
    path.write_bytes(path.read_bytes()[:-1])
    with refused("page=True", path.name, "is damaged", "npm pack", "onnxruntime-web@"):
        check_archives(archives)
    path.unlink()
    with refused("page=True", path.name, "is missing", "npm pack", str(archives)):
        check_archives(archives)


@pytest.mark.fault
def test_a_page_that_cannot_be_written_is_refused_at_once(archives, tmp_path):
    check_page(False, None, tmp_path)
    with refused("page=True", "no run"):
        check_page(True, None, tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    with refused("page=True", "no fast version"):
        check_page(True, tmp_path / "run", tmp_path)
    (tmp_path / "run" / "model" / "tokenizer.json").touch()
    check_page(True, tmp_path / "run", archives)
    with refused("page=True", "is missing", "npm pack"):
        check_page(True, tmp_path / "run", tmp_path / "run")


@pytest.mark.fault
def test_a_folder_that_cannot_be_written_is_named(archives, tmp_path):
    (tmp_path / "page").touch()
    with refused(str(tmp_path / "page"), "could not be written"):
        unpack_archives(archives, tmp_path / "page")


def test_a_sentence_of_several_lines_is_shown_in_one(archives, tmp_path, monkeypatch, model):
    """The field of the page has one line: it would join the last word of a line and the first of the next."""
    monkeypatch.setattr(mlm.inference.page, "browser_tokenizer", lambda *_: ({}, []))
    tokenizer = SimpleNamespace(mask_token="[MASK]", mask_token_id=4)
    (tmp_path / "run").mkdir()
    page = write_page(tmp_path / "run", model, tokenizer, RESULTS, "one\ntwo [MASK]\n", archives)
    assert json.loads((page / "page.json").read_text())["sentence"] == "one two [MASK]"


def test_the_page_names_no_other_host_and_has_labels():
    assert not re.findall(r"https?://", PAGE)
    assert '<label for="sentence">' in PAGE and '<html lang="en">' in PAGE
    assert "connect-src" not in PAGE and "default-src 'self'" in PAGE


# in a browser


@pytest.fixture(scope="session")
def chromium():
    """The program of a browser of Chromium's kind."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(f"no browser found ({', '.join(BROWSERS)})")


@contextlib.contextmanager
def serve(folder):
    """Context manager that serves a folder as python -m http.server does: (URL, list of statuses)."""
    statuses = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            statuses.append((self.path, int(code)))

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", statuses
        server.shutdown()


class Page:
    """A page after its script has run."""

    def __init__(self, chromium, url, sentence, profile):
        query = urllib.parse.urlencode({"sentence": sentence})
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--virtual-time-budget=60000", "--dump-dom", f"{url}?{query}",
        ]  # fmt: skip
        self.dom = subprocess.run(command, capture_output=True, text=True, timeout=200).stdout

    def text(self, name):
        """The text of a line of the page."""
        (found,) = re.findall(rf'<p id="{name}"[^>]*>(.*?)</p>', self.dom, re.DOTALL)
        return html.unescape(found)

    def predictions(self):
        """For each mask, [(token, probability)]."""
        row = r'<td dir="auto">(.*?)</td>.*?value="(.*?)"'
        tables = re.findall(r"<table>.*?</table>", self.dom, re.DOTALL)
        return [
            [(html.unescape(token), float(p)) for token, p in re.findall(row, table)]
            for table in tables
        ]


RESULTS = {"parameters": {"model": "scratch:tiny"}}
SENTENCE = "พ่อไปตลาด[MASK] กินข้าว [MASK] 😀 É"


@pytest.mark.slow
@torch.no_grad()
def test_the_browser_makes_the_same_predictions_as_python(chromium, npm_archives, tmp_path):
    torch.set_num_threads(1)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS["thai"]), encoding="utf-8")
    tokenizer = load_tokenizer("scratch:tiny", text, "bpe-cased:300")
    model = make_model("bert", tokenizer, num_hidden_layers=1, initializer_range=0.3).eval()
    folder = tmp_path / "run"
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    path, _ = export_onnx(folder / "model", "page")
    quantized = quantize_onnx(path, folder / "page" / "model.onnx")
    page_folder = write_page(folder, model, tokenizer, RESULTS, SENTENCE, npm_archives)
    ids = np.array([tokenizer(with_mask(tokenizer, SENTENCE))["input_ids"]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (logits,) = onnx_session(quantized).run(["logits"], inputs)
    best = torch.tensor(logits[ids == tokenizer.mask_token_id]).softmax(-1).topk(5)

    with serve(page_folder) as (url, statuses):
        page = Page(chromium, url, SENTENCE, tmp_path / "profile")
        without_mask = Page(chromium, url, "no mask", tmp_path / "profile")
        too_long = Page(chromium, url, "กิน " * 600 + "[MASK]", tmp_path / "profile")
    assert page.text("error") == page.text("warning") == ""
    assert "scratch:tiny" in page.text("status")
    assert len(page.predictions()) == 2
    for row, values, tokens in zip(page.predictions(), best.values, best.indices):
        assert [token for token, _ in row] == tokenizer.convert_ids_to_tokens(tokens.tolist())
        np.testing.assert_allclose([p for _, p in row], values, atol=0.01)
    assert "has no [MASK]" in without_mask.text("error") and not without_mask.predictions()
    assert "shorten it" in too_long.text("error") and not too_long.predictions()
    files = {urllib.parse.urlparse(name).path.strip("/") or "index.html" for name, _ in statuses}
    assert files == {path.name for path in page_folder.iterdir()} - {"tokenizers-LICENSE"}
    assert {status for _, status in statuses} <= {200, 304}


@pytest.fixture
def make_any_tokenizer(tmp_path, corpus_folder):
    """A function that makes a tokenizer: learned ("bpe thai"), of a kind ("roberta"), with added words."""

    def make(name):
        kind, _, script = name.partition(" ")
        if script == "words":
            tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
            tokenizer.add_tokens([AddedToken("powers", single_word=True, normalized=True)])
        elif script:
            text = tmp_path / "text.txt"
            text.write_text("\n".join(TEXTS[script]), encoding="utf-8")
            tokenizer = load_tokenizer("scratch:tiny", text, f"{kind}:300")
        else:
            tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
        return tokenizer

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "wordpiece greek", "wordpiece-cased hindi", "bpe-cased thai", "bpe emoji", "unigram greek",
        "unigram-cased mixed", "bert words", "roberta", "modernbert", "deberta-v2",
    ],
)  # fmt: skip
def test_the_browser_gives_the_same_token_ids_as_python(
    chromium, npm_archives, tmp_path, make_any_tokenizer, name
):
    tokenizer = make_any_tokenizer(name)
    model = make_model("bert", tokenizer, num_hidden_layers=1).eval()
    folder = write_page(tmp_path / "run", model, tokenizer, RESULTS, SENTENCE, npm_archives)
    about = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    texts = [line for lines in TEXTS.values() for line in lines[:20]]
    texts += [f"{text} powers empowers powersof" for text in texts[:2]]
    about["checks"] += list(zip(texts, tokenizer(texts, verbose=False)["input_ids"]))
    (folder / "page.json").write_text(json.dumps(about), encoding="utf-8")
    with serve(folder) as (url, _):  # without a model: the tokenizer is checked before it is loaded
        page = Page(chromium, url, SENTENCE, tmp_path / "profile")
    assert page.text("warning") == ""
    assert "model.onnx" in page.text("error")


@pytest.mark.slow
def test_a_text_with_other_ids_than_in_python_is_shown(
    chromium, npm_archives, tmp_path, make_any_tokenizer
):
    tokenizer = make_any_tokenizer("bert")
    model = make_model("bert", tokenizer, num_hidden_layers=1).eval()
    folder = write_page(tmp_path / "run", model, tokenizer, RESULTS, SENTENCE, npm_archives)
    about = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    about["checks"] = [["a name", [1, 2]], *about["checks"]]
    (folder / "page.json").write_text(json.dumps(about), encoding="utf-8")
    with serve(folder) as (url, _):
        page = Page(chromium, url, SENTENCE, tmp_path / "profile")
    assert page.text("warning").startswith("1 of ") and "a name" in page.text("warning")
