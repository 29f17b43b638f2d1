"""Batches to evaluate on: their masks depend only on the text, the tokenizer and the seed."""

from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH, cached_plan

VALIDATION_MLM_PROBABILITY = 0.15  # the masking rate of the validation set, the same in every run


def evaluation_batches(
    examples: MaskedLMDataset,
    seed: int,
    pack: bool = True,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
) -> MaskedBatches:
    """The batches of process `rank` with all examples, masked at VALIDATION_MLM_PROBABILITY.

    The masks do not depend on how training masks, nor on `batch_size`, the examples per process and batch.
    """
    epochs = (VALIDATION_EPOCH,)
    rate = VALIDATION_MLM_PROBABILITY
    plan = cached_plan(examples, batch_size, rate, seed, epochs, world_size, pack=pack)
    keys = plan.keys(VALIDATION_EPOCH)
    return MaskedBatches(examples, keys, rate, seed, shape=plan.shape, rank=rank)
