"""The unigram baseline needs at least one masked token."""

import numpy as np

from helpers import refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.training.evaluation import unigram_loss


def test_a_validation_set_without_masked_tokens_is_refused(tmp_path, tokenizer):
    """Instead of a loss of 0."""
    (tmp_path / "a.txt").write_text("a\n")
    data = MaskedLMDataset(tmp_path / "a.txt", tokenizer)
    batches = MaskedBatches(data, [(0, np.arange(1))], 1e-9, 0)
    with refused("no token of the validation set (held-out lines) is masked", "pass a corpus"):
        unigram_loss(data, batches)
