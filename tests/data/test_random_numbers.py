"""Random numbers are uniform, independent, and a pure function of their keys."""

import re

import numpy as np
import pytest

from helpers import ROOT
from mlm.data.random_numbers import Purpose, uniform


def test_the_numbers_are_uniformly_distributed():
    drawn = uniform(3, 1, np.arange(500)[:, None], np.arange(400), 2).ravel()
    n, bins = len(drawn), 64
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0 and drawn.max() < 1
    assert len(np.unique(drawn)) == n
    assert abs(drawn.mean() - 0.5) < 5 / np.sqrt(12 * n)
    expected = n / bins
    chi2 = ((np.histogram(drawn, bins, (0, 1))[0] - expected) ** 2).sum() / expected
    assert abs(chi2 - (bins - 1)) < 5 * np.sqrt(2 * (bins - 1))


@pytest.mark.parametrize("key", range(5), ids=["seed", "epoch", "example", "position", "purpose"])
def test_neighboring_keys_give_independent_numbers(key):
    keys = np.indices((3, 4, 50, 60, 4)) + np.array([7, 2, 9, 1, 0]).reshape(5, 1, 1, 1, 1, 1)
    moved = keys.copy()
    moved[key] += keys[key].max() - keys[key].min() + 1
    first, second = uniform(*keys).ravel(), uniform(*moved).ravel()
    assert not np.isin(first, second).any()
    for lag in (0, 1, 4, 240):
        a, b = first[: len(first) - lag], second[lag:]
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_a_number_depends_only_on_its_keys():
    examples = np.array([5, 0, 2**33, 17])
    together = uniform(2**32 - 1, 2**40, examples[:, None], np.arange(9), 1)
    assert together.shape == (4, 9)
    for row, example in enumerate(examples):
        for position in range(9):
            alone = uniform(2**32 - 1, 2**40, int(example), position, 1)
            assert alone == together[row, position]


def test_the_algorithm_is_splitmix64():
    """The numbers are the same on every machine, since a resumed run may be on another one."""
    assert uniform(0) == (0xE220A8397B1DCDAF >> 11) / 2**53  # splitmix64's first output for seed 0
    state = 0
    for key in (2**32 - 1, 2**40, 3, 126, 1):
        state = (state ^ key) + 0x9E3779B97F4A7C15 & 2**64 - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 2**64 - 1
        state ^= state >> 31
    assert uniform(2**32 - 1, 2**40, 3, 126, 1) == (state >> 11) / 2**53


def test_the_values_of_the_purposes_never_change():
    """Otherwise a run resumed from an older checkpoint would see other masks."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "NUM_MASKED": 0,
        "CHOICE": 1,
        "REPLACEMENT": 2,
        "RANDOM_TOKEN": 3,
        "BATCH_ORDER": 4,
        "ROW_ORDER": 5,
        "DROPOUT": 6,
        "LINE_SAMPLE": 7,
        "SOURCE_SAMPLE": 8,
    }
    assert uniform(3, Purpose.DROPOUT) == uniform(3, 6)


def test_each_purpose_is_used_by_one_draw_in_the_library():
    texts = [path.read_text("utf-8") for path in (ROOT / "notebooks" / "mlm").rglob("*.py")]
    used = [name for text in texts for name in re.findall(r"Purpose\.([A-Z_]+)", text)]
    assert sorted(used) == sorted(purpose.name for purpose in Purpose)
    draws = sum(len(re.findall(r"\buniform\(", text)) for text in texts)
    assert draws == len(Purpose) + 1  # and the definition itself
