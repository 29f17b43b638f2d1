"""A small model that makes clear predictions, and a finished run of it."""

import json
import shlex
import shutil
import subprocess
from itertools import product

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from encoders import make_model
from mlm.data.corpus import load_corpus
from mlm.data.tokenizer import learn_wordpiece
from mlm.env.files import sha256_sums, write_checked_json
from mlm.inference.npm_packages import pack_command
from mlm.training.run_files import output_files
from texts import ANIMALS, PLACES, VERBS


@pytest.fixture(scope="package")
def text():
    """A sentence with all the words that the tokenizer knows."""
    return "the will to power is not a name but a question of good and evil in every human being"


@pytest.fixture(scope="package")
def word_tokenizer(text, tmp_path_factory):
    """A WordPiece tokenizer of a few words."""
    torch.set_num_threads(1)
    file = tmp_path_factory.mktemp("text") / "train.txt"
    file.write_text("\n".join([text] * 3))
    return learn_wordpiece(file, vocab_size=120)


@pytest.fixture(scope="package")
def model(word_tokenizer):
    """A narrow BertForMaskedLM with 24 positions whose predictions differ clearly between tokens."""
    config = BertConfig(
        vocab_size=len(word_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return BertForMaskedLM(config).eval()


@pytest.fixture(scope="package")
def results():
    """The parts of run.json that are read."""
    return {
        "parameters": {"model": "scratch:tiny", "seed": 7},
        "data": {"source": "pydoc"},
        "training": {"steps": 1200, "tokens_seen": 34567},
        "before": {"loss": 8.3, "perplexity": 4000.0, "accuracy": 0.0},
        "after": {"loss": 4.6, "perplexity": 99.0, "accuracy": 0.25},
        "baseline": {"loss": 5.6},
    }


@pytest.fixture(scope="package")
def finished_run(model, word_tokenizer, results, tmp_path_factory):
    """The folder of a finished run, with the files that 04 writes. Not to be changed."""
    folder = tmp_path_factory.mktemp("work") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    weights = {f"bert.{name}": weight for name, weight in model.state_dict().items()}
    torch.save(weights, folder / "saved.bin")
    torch.save({"state_dict": weights, "global_step": 9}, folder / "checkpoints" / "last.ckpt")
    model.save_pretrained(folder / "model")
    word_tokenizer.save_pretrained(folder / "model")
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text("step,loss\n")
    files = sha256_sums(folder, output_files(folder))
    write_checked_json(folder / "run.json", {**results, "files": files})
    return folder


@pytest.fixture
def run_folder(finished_run, tmp_path):
    """A copy of that run, to be damaged."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def npm_archives(tmp_path_factory):
    """A folder with the archives of npm that the browser page needs; they come from the network."""
    folder = tmp_path_factory.mktemp("npm")
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    done = subprocess.run(shlex.split(pack_command(folder)), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch the packages: {done.stderr[-300:]}")
    return folder


# a text of which half the lines are prose


@pytest.fixture(scope="package")
def results_of():
    """A function: the parts of run.json that say which corpus, and how it was masked."""

    def parts(corpus):
        sha256 = json.loads((corpus / "corpus.json").read_text())["sha256"]
        return {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": sha256}}

    return parts


@pytest.fixture(scope="package")
def prose_corpus(tmp_path_factory):
    """A corpus in which every second line is prose and every other line is not."""
    folder = tmp_path_factory.mktemp("prose")
    lines = []
    for first, verb, second, place in product(ANIMALS, VERBS, ANIMALS, PLACES):
        lines.append(f"The old {first} often {verb} the {second}, but never in this {place}.")
        lines.append(f"{first}_{verb}({second}) = {place} or None  # {len(lines)}")
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return load_corpus(str(folder / "text.txt"), folder)


@pytest.fixture(scope="package")
def prose_tokenizer(prose_corpus):
    return learn_wordpiece(prose_corpus / "train.txt")


@pytest.fixture(scope="package")
def prose_model(prose_tokenizer):
    return make_model("bert", prose_tokenizer).eval()
