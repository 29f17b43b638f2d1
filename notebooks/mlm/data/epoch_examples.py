"""Which examples an epoch has, if corpora are mixed by weight: a pure function of seed and epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlm.data.mixture import MAX_WEIGHT
from mlm.data.random_numbers import Purpose, uniform
from mlm.env.notebook import NotebookError


class EpochExamples:
    """Which examples an epoch has, if the examples of each source are drawn `weight` times.

    An epoch has round(weight * n) examples of a source with n examples, but at least one: all of them as
    often as the weight has ones, and for the rest of it a random subset, a pure function of seed and
    epoch. A repeated example has an index, and so a mask, for each time.

    examples (indices,): the example that each index is; per_source (sources,): the number of
    indices that an epoch has of each source.
    """

    def __init__(self, sources: np.ndarray, weights: Sequence[float]) -> None:
        """sources (examples,): the source of each example, a position in `weights`."""
        num_examples = np.bincount(sources, minlength=len(weights))
        self.per_source = np.round(num_examples * weights).astype(np.int64)
        self.per_source = np.maximum(self.per_source, np.minimum(num_examples, 1))
        times = np.ceil(self.per_source / np.maximum(num_examples, 1)).astype(np.int64)

        repeats = range(times.max())
        self.examples = np.concatenate([np.flatnonzero(times[sources] > k) for k in repeats])
        repeat = np.repeat(repeats, [np.count_nonzero(times[sources] > k) for k in repeats])
        source = sources[self.examples]
        is_last = repeat == times[source] - 1
        self.always = np.flatnonzero(~is_last)
        # (indices, how many of them are drawn) of the last repetition of each source
        self.partial = [
            (np.flatnonzero(is_last & (source == number)), int(count - (times[number] - 1) * n))
            for number, (n, count) in enumerate(zip(num_examples, self.per_source))
        ]

    def __len__(self) -> int:
        """The number of examples of an epoch."""
        return int(self.per_source.sum())

    def of_epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's examples, ascending: (len(self),)."""
        drawn = [
            indices[
                np.argsort(uniform(seed, epoch, indices, Purpose.SOURCE_SAMPLE), kind="stable")[
                    :count
                ]
            ]
            for indices, count in self.partial
        ]
        return np.sort(np.concatenate([self.always, *drawn]))


def source_weights(mixture: Sequence[dict[str, Any]], sources: np.ndarray) -> list[float]:
    """The weight of each text in the "mixture" of corpus.json; sources: as in EpochExamples.

    A text that is replayed has a "fraction" instead: its examples are that fraction of an epoch's. It
    comes last. Raises NotebookError if it is so short that an epoch would repeat it too often.
    """
    weights = [text["weight"] for text in mixture if "weight" in text]
    if len(weights) == len(mixture):
        return weights
    fraction = mixture[-1]["fraction"]
    num_others = len(EpochExamples(sources[sources < len(weights)], weights))
    num_replayed = np.count_nonzero(sources == len(weights))
    weight = num_others * fraction / (1 - fraction) / max(num_replayed, 1)
    if weight > MAX_WEIGHT:
        raise NotebookError(
            f"replay has {num_replayed:,} examples, and replay_fraction={fraction:g} would repeat each of "
            f"them {weight:,.0f} times in an epoch (at most {MAX_WEIGHT}): pass a longer text, or a smaller "
            "fraction"
        )
    return [*weights, weight]


def example_sources(
    mixture: Sequence[dict[str, Any]], unit: str, ends: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """The source of each example, (examples,): a position in the "mixture" of corpus.json.

    ends (units,), starts (examples,): as `encode_lines` and an entry of EXAMPLES return them. Raises
    NotebookError if examples are blocks across documents.
    """
    if unit == "text":
        raise NotebookError(
            'examples must be "line" or "block" if corpus has weights or replay is given, got "stream": its '
            'blocks continue from one text to the next; pass examples="block"'
        )
    num_units = np.cumsum([source[f"{unit}s"] for source in mixture])
    assert num_units[-1] == len(ends), "corpus.json and train.txt belong together"
    last_tokens = ends[num_units - 1]  # of each source
    return np.searchsorted(last_tokens, starts, side="right")
