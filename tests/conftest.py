"""Small inputs that the tests share, and a report on the tests of bad inputs and faults."""

import os

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from helpers import REFUSALS, sentences
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece

# Tests fork. A forked process that tokenizes on all cores waits for ever for threads that it does not have,
# and notebooks' first cell, which tests run in this process, turns all cores on unless this is set.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A corpus that load_corpus wrote: 360 lines for training, 40 for validation."""
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text.txt"
    text.write_text("\n\n".join(sentences(400)), encoding="utf-8")
    return load_corpus(str(text), folder)


@pytest.fixture(scope="session")
def tokenizer(corpus_folder):
    """A WordPiece tokenizer learned from the training text."""
    return learn_wordpiece(corpus_folder / "train.txt", vocab_size=300)


@pytest.fixture(scope="session")
def dataset(corpus_folder, tokenizer):
    """The training lines as examples of at most 32 tokens; some lines are truncated."""
    return MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)


@pytest.fixture
def odd_text(tmp_path, corpus_folder):
    """100 lines of the training text, then lines that are difficult to tokenize."""
    lines = (corpus_folder / "train.txt").read_text("utf-8").split("\n")[:100]
    odd = [
        "   spaces around   ",
        "\u200b\u200b",  # not blank for Python, but BERT finds no token
        "[MASK] and [SEP] in the text",
        "Größe ÜBER 語語 🙂 \u00ad",
        "word " * 500,
        "x" * 300,  # too long for WordPiece: [UNK]
        ".",
    ]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines + odd), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def long_words(tmp_path_factory):
    """(path, tokenizer) of a text whose words have 1 to 12 tokens, or are [UNK].

    The tokenizer's vocabulary consists of four letters, a comma and "word".
    """
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", ",", *"abcd"]
    names += [f"##{letter}" for letter in "abcd"]
    tokenizer = BertTokenizer(
        vocab={name: number for number, name in enumerate(names)}, do_lower_case=True
    )
    generator = np.random.default_rng(0)
    words = np.array(["word", "abc", "b", "dcba", "abcdabcdabcd", "unknown"])
    probabilities = [0.3, 0.25, 0.15, 0.15, 0.05, 0.1]
    lines = [
        " ".join(generator.choice(words, generator.integers(1, 12), p=probabilities))
        for _ in range(1000)
    ]
    path = tmp_path_factory.mktemp("words") / "a.txt"
    path.write_text("\n".join(line.replace(" b", ", b") for line in lines), "utf-8")
    return path, tokenizer


@pytest.fixture
def bert(tokenizer):
    """A BertForMaskedLM with two narrow layers and without dropout."""
    from encoders import make_model

    torch.set_num_threads(1)  # with more, tiny models only wait
    return make_model("bert", tokenizer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Attach a test's refusals to its report, which also works if it ran in another process."""
    report = yield
    if call.when == "call":
        report.user_properties += [("refusal", refusal) for refusal in REFUSALS]
        REFUSALS.clear()
    return report


def pytest_terminal_summary(terminalreporter):
    """Print the number of tests of bad inputs and faults, and which error message took longest."""
    stats = terminalreporter.stats
    reports = [r for result in ("passed", "failed") for r in stats.get(result, [])]
    reports = [report for report in reports if report.when == "call"]
    num_faults = sum("fault" in report.keywords for report in reports)
    if not num_faults:
        return
    refusals = [
        refusal
        for report in reports
        for name, refusal in report.user_properties
        if name == "refusal"
    ]
    terminalreporter.write_line(
        f"bad inputs and faults: {num_faults} tests, {len(refusals)} error messages"
    )
    if refusals:
        seconds, message = max(tuple(refusal) for refusal in refusals)
        terminalreporter.write_line(f"the slowest took {seconds:.1f} s: {message}")
