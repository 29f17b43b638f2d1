"""The small inputs that the tests share, and how a refusal is asserted."""

import contextlib
import random
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mlm.corpus import load_corpus
from mlm.tokens import MaskedLMDataset, learn_wordpiece

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

REFUSALS = []  # (seconds that it took, the line)


@contextlib.contextmanager
def refused(*words):
    """The block must raise a NotebookError, within seconds, whose one line contains all these words.

    As a context it gives a function that returns the line.
    """
    began = time.monotonic()
    with pytest.raises(ValueError) as caught:
        yield lambda: str(caught.value)
    REFUSALS.append((time.monotonic() - began, str(caught.value)))
    assert REFUSALS[-1][0] < 20
    assert type(caught.value).__name__ == "NotebookError", repr(caught.value)
    (line,) = str(caught.value).splitlines()
    assert [word for word in words if word not in line] == [], line


WORDS = """
the of and a in to is was he for it with as his on be at by had not are but from have
philosopher's morality; instinct, truth? spirit! Apollo will to power nevertheless
beyond good evil (genealogy) human too naïve Übermensch 1886 well-being self-overcoming
"""


def sentences(count, seed=0):
    """Lines of English words, of 1 to 40 words each, all different."""
    chance, words = random.Random(seed), WORDS.split()
    drawn = (" ".join(chance.choices(words, k=chance.randint(1, 40))) for _ in range(count))
    return [f"{number} {line}" for number, line in enumerate(drawn)]


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


def masked_loss(module, batch):
    """The loss of a MaskedLM summed over the masked tokens, their logits (K, V) and labels (K,)."""
    from mlm.training import asked_labels  # here: it costs each process of a test 2 s

    logits, labels = module.masked_logits(batch), asked_labels(batch)
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), logits, labels


def parts_of(batch, pad_token_id=0):
    """[(input_ids, labels)] of the examples of a batch, taken out of their rows."""
    ids, labels = batch["input_ids"], batch["labels"]
    owner = batch.get("attention_mask", torch.ones_like(ids))
    place = batch.get("position_ids", torch.arange(ids.shape[1]).expand_as(ids))
    assert (ids[owner == 0] == pad_token_id).all() and (labels[owner == 0] == -100).all()  # padding
    found = []
    for row in range(len(ids)):
        if (ids[row] == 0).all():  # an empty row
            continue
        for number in range(1, int(owner[row].max()) + 1):
            (where,) = torch.where(owner[row] == number)
            assert where.tolist() == list(range(int(where[0]), int(where[0]) + len(where)))
            assert place[row][where].tolist() == list(range(len(where)))
            found.append((ids[row][where].tolist(), labels[row][where].tolist()))
    return found


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
