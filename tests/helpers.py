"""What the tests share besides fixtures: small texts, an asserted refusal, the parts of a batch."""

import contextlib
import random
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

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


def masked_loss(module, batch):
    """The loss of a MaskedLM summed over the masked tokens, their logits (K, V) and labels (K,)."""
    from mlm.training.module import (
        masked_labels,  # here: it costs each process of a test 2 s
    )

    logits, labels = module.masked_logits(batch), masked_labels(batch)
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), logits, labels


def parts_of(batch, pad_token_id=0):
    """[(input_ids, labels)] of the examples of a batch, taken out of their rows."""
    ids, labels = batch["input_ids"], batch["labels"]
    owner = batch.get("sequence_ids", torch.ones_like(ids))
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
