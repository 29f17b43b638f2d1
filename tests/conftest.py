"""The small inputs that the tests share, and how a refusal is asserted."""

import pytest
import torch

from helpers import REFUSALS, sentences
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A corpus as load_corpus leaves it: 360 training lines, 40 held-out ones."""
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text.txt"
    text.write_text("\n\n".join(sentences(400)), encoding="utf-8")
    return load_corpus(str(text), folder)


@pytest.fixture(scope="session")
def tokenizer(corpus_folder):
    """A WordPiece tokenizer learned from the training lines."""
    return learn_wordpiece(corpus_folder / "train.txt", vocab_size=300)


@pytest.fixture(scope="session")
def dataset(corpus_folder, tokenizer):
    """The training lines as examples of at most 32 tokens, some of them truncated."""
    return MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)


@pytest.fixture
def bert(tokenizer):
    """A BertForMaskedLM of two narrow layers without dropout."""
    from encoders import make_model

    torch.set_num_threads(1)  # tiny models only wait for more
    return make_model("bert", tokenizer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test's refusals go with its report: it may have run in another process."""
    report = yield
    if call.when == "call":
        report.user_properties += [("refusal", refusal) for refusal in REFUSALS]
        REFUSALS.clear()
    return report


def pytest_terminal_summary(terminalreporter):
    """How many rows the table of bad inputs and faults has, and how long the slowest refusal took."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    rows = sum("fault" in r.keywords for r in reports if r.when == "call")
    if not rows:
        return
    found = {tuple(v) for r in reports for name, v in r.user_properties if name == "refusal"}
    refusals = sum(
        name == "refusal" for r in reports for name, _ in r.user_properties if r.when == "call"
    )
    terminalreporter.write_line(f"bad inputs and faults: {rows} rows, {refusals} refusals")
    for seconds, line in sorted(found, reverse=True)[:1]:
        terminalreporter.write_line(f"the slowest took {seconds:.1f} s: {line}")
