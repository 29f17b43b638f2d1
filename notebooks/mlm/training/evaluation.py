"""Validation loss and accuracy, and the unigram baseline."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from mlm.env.notebook import NotebookError
from mlm.training.module import masked_labels


@torch.no_grad()
def evaluate(module, batches, add_up=lambda sums: sums):
    """Masked-token loss (nats), perplexity exp(loss) and accuracy of a MaskedLM on `batches`.

    The loss is the plain cross-entropy, whatever the module is trained with. `add_up` adds the sums
    of all processes up; one device read for all batches.
    """
    was_training = module.training
    module.eval()
    sums = torch.zeros(3).to(module.device)
    for batch in batches:
        batch = {k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()}
        logits, labels = module.masked_logits(batch), masked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        right = (logits.argmax(-1) == labels).sum()  # -100 is never the largest
        sums = sums + torch.stack([loss, (labels != -100).sum(), right])
        if module.device.type == "xla":  # or all batches would become one graph
            import torch_xla

            torch_xla.sync()
    module.train(was_training)
    loss, count, right = add_up(sums).cpu().tolist()
    loss = loss / max(count, 1)
    perplexity = math.exp(min(loss, 700))  # beyond, it is no float
    return {"loss": loss, "perplexity": perplexity, "accuracy": right / max(count, 1)}


def log_frequencies(train):
    """The log of each token's share of the training text, (V,); one is added to each count."""
    pieces = (train.ids[i : i + 10**7] for i in range(0, len(train.ids), 10**7))  # from disk
    counts = sum(np.bincount(piece, minlength=train.vocab_size) for piece in pieces) + 1.0
    return np.log(counts / counts.sum())


def unigram_loss(train, held_out):
    """Mean loss (nats) on the held-out masked tokens of the training text's word frequencies.

    Raises NotebookError where nothing is asked.
    """
    labels = torch.cat([batch["labels"].flatten() for batch in held_out]).numpy()
    asked = labels[labels != -100]
    if not len(asked):
        raise NotebookError(
            "no token of the held-out lines is asked about, so nothing could be measured: they are "
            "too few or too short; pass a corpus with more or longer lines, or another seed"
        )
    return float(-log_frequencies(train)[asked].mean())


@torch.no_grad()
def init_head_bias(bert, train):
    """Give a head that was never trained the word frequencies as its bias: it need not learn them."""
    frequencies = torch.from_numpy(log_frequencies(train)).float()
    bias = bert.get_output_embeddings().bias
    if bias is not None and len(bias) == bert.config.vocab_size:  # not all heads have one
        bias[: len(frequencies)] = frequencies
