"""Accuracy on the validation set of a run, by how frequent a token is in the training text."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.inference.validation_set import find_corpus, load_split
from mlm.models.encoders import supports_packing
from mlm.training.evaluation import validation_batches
from mlm.training.module import MaskedLM, masked_labels

FREQUENCY_BANDS = 10, 100, 1000  # upper limits of the rows of `accuracy_by_frequency`


@torch.no_grad()
def accuracy_by_frequency(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> pd.DataFrame | None:
    """Accuracy on all masked validation tokens, by how often the token occurs in the training text.

    A row for each range of counts and one for all tokens, with the number of masked tokens, the accuracy
    of always predicting the most frequent token, and the accuracy of each model. Returns None if the
    run's corpus is not in `workdir`.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        return None
    train, valid = (load_split(folder, split, tokenizer, results) for split in ("train", "valid"))
    counts = np.bincount(train.ids, minlength=train.vocab_size)
    pack = all(supports_packing(model.config) for model in models.values())
    batches = validation_batches(valid, results["parameters"]["seed"], pack)
    labels = torch.cat([masked_labels(batch) for batch in batches]).numpy()
    correct = {"most frequent token": np.full(len(labels), counts.argmax()) == labels}
    for name, model in models.items():
        module = MaskedLM(model, {}).eval()
        predictions = [module.masked_logits(b).argmax(-1) for b in batches]
        correct[name] = torch.cat(predictions).numpy() == labels
    limits = (0, *FREQUENCY_BANDS)
    names = ["never", *(f"{low + 1:,} to {high:,}" for low, high in zip(limits, FREQUENCY_BANDS))]
    names.append(f"more than {FREQUENCY_BANDS[-1]:,}")
    table = pd.DataFrame({"masked tokens": 1, **correct})
    table = table[labels != -100]  # -100 fills up the positions of a batch
    table["band"] = np.searchsorted(limits, counts[labels[labels != -100]])
    aggregates = {"masked tokens": "sum", **dict.fromkeys(correct, "mean")}
    bands = table.groupby("band").agg(aggregates).rename(index=dict(enumerate(names)))
    total = table.agg(aggregates).to_frame("all").T.astype(bands.dtypes)
    return pd.concat([bands, total]).rename_axis("times in the training text")
