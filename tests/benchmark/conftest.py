"""A bench that all benchmark tests share: a tiny model, 60 lines of text, a validation set."""

import numpy as np
import pytest

from mlm.benchmark.speed import Bench, sample_lines
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece
from mlm.models.loading import load_model
from mlm.training.evaluation import validation_batches

NUM_LINES = 60


@pytest.fixture(scope="package")
def bench(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("speed"), np.random.default_rng(0)
    words = ["the", "a", "of", "dog", "cat", "tree", "sees", "hears", "old", "green", "and"]
    lines = [" ".join(random.choice(words, random.integers(1, 40))) for _ in range(300)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sample_lines(folder / "train.txt", folder / "lines.txt", NUM_LINES, seed=0)
    tokenizer = learn_wordpiece(folder / "train.txt")
    data = {
        examples: MaskedLMDataset(folder / "lines.txt", tokenizer, 64, examples)
        for examples in ("line", "block")
    }
    return Bench(
        model=load_model("scratch:tiny", tokenizer, max_len=64, seed=0),
        model_name="scratch:tiny",
        data=data,
        validation_batches=list(validation_batches(data["line"], seed=0, pack=True)),
        mlm_probability=0.15,
        seed=0,
        device="cpu",
    )
