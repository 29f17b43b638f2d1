"""The validation batches, validation loss and accuracy, and the unigram baseline."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH, cached_plan
from mlm.data.token_frequencies import log_frequencies
from mlm.env.notebook import NotebookError
from mlm.training.module import MaskedLM, masked_labels

VALIDATION_MLM_PROBABILITY = 0.15  # the masking rate of the validation set, the same in every run
MAX_EXPONENT = 700  # the exponential of a larger loss is no float


def validation_batches(
    valid: MaskedLMDataset,
    seed: int,
    pack: bool,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
) -> MaskedBatches:
    """The validation batches of process `rank`. `pack`: several short examples share a row.

    Their masks depend only on the text, the tokenizer and the seed, not on how training masks.
    """
    rate, epochs = VALIDATION_MLM_PROBABILITY, (VALIDATION_EPOCH,)
    plan = cached_plan(valid, batch_size, rate, seed, epochs, world_size, pack=pack)
    return MaskedBatches(
        valid, plan.keys(VALIDATION_EPOCH), rate, seed, shape=plan.shape, rank=rank
    )


@torch.no_grad()
def evaluate(
    module: MaskedLM,
    batches: Iterable[dict[str, Any]],
    add_up: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Loss (nats per masked token), perplexity exp(loss) and accuracy of a MaskedLM on batches.

    The loss is always the plain cross-entropy, even if `training_step` was edited. `add_up` sums a
    tensor over all processes. The device is read only once, after the last batch.
    """
    was_training = module.training
    module.eval()
    device = next(module.parameters()).device  # module.device is "cpu" until Lightning moves it
    sums = torch.zeros(3).to(device)  # losses, masked tokens, correct predictions
    for batch in batches:
        batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        logits, labels = module.masked_logits(batch), masked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum()  # argmax is never -100
        sums = sums + torch.stack([loss, (labels != -100).sum(), correct])
        if device.type == "xla":  # otherwise all batches become one graph
            import torch_xla

            torch_xla.sync()
    module.train(was_training)
    loss_sum, count, correct = add_up(sums).cpu().tolist()
    mean_loss = loss_sum / max(count, 1)
    return {
        "loss": mean_loss,
        "perplexity": math.exp(min(mean_loss, MAX_EXPONENT)),
        "accuracy": correct / max(count, 1),
    }


def unigram_loss(train: MaskedLMDataset, validation_batches: Iterable[dict[str, Any]]) -> float:
    """The unigram baseline: mean validation loss (nats) of predicting each token's training frequency.

    Raises NotebookError if no validation token is masked.
    """
    labels = torch.cat([batch["labels"].flatten() for batch in validation_batches]).numpy()
    masked = labels[labels != -100]
    if not len(masked):
        raise NotebookError(
            "no token of the validation set (held-out lines) is masked, so there is no validation loss: "
            "its lines are too few or too short; pass a corpus with more or longer lines, or another seed"
        )
    return float(-log_frequencies(train)[masked].mean())


def training_unigram_loss(train: MaskedLMDataset) -> float:
    """The unigram loss (nats) of the training text itself.

    It is lower than the baseline if the training text repeats lines, such as the rules of tables: the
    validation set has no line of the training text.
    """
    log_p = log_frequencies(train)
    return float(-(np.exp(log_p) * log_p).sum())


def repeated_fraction(train: MaskedLMDataset) -> float:
    """The fraction of a dataset's examples that are copies of an earlier example.

    Only a 64-bit hash of each example is kept in memory.
    """
    ids = np.asarray(train.ids)  # slices of a memory map take longer
    bounds = zip(train.starts, train.starts + train.lengths)
    hashes = (hash(ids[start:end].tobytes()) for start, end in bounds)
    return 1 - len(np.unique(np.fromiter(hashes, np.int64, len(train)))) / len(train)


def visible_gain(train: MaskedLMDataset) -> float:
    """How many nats below the unigram baseline a model gets without any context.

    10% of the masked tokens stay visible, and 10% are replaced by a random token. So a model that sees a
    token x at a masked position does best to predict x with the probability that x was kept, which is
    p(x) / (p(x) + 1/V), and the unigram distribution p otherwise.
    """
    log_p = log_frequencies(train)
    p = np.exp(log_p)
    kept = p / (p + 1 / len(p))
    gain_if_kept = (p * (np.log(kept + (1 - kept) * p) - log_p)).sum()
    loss_if_random = -np.log1p(-kept).mean()
    return float(0.1 * gain_if_kept - 0.1 * loss_if_random)
