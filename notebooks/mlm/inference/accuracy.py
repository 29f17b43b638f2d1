"""Accuracy on the validation set of a run, by what is visible of a token and by its frequency."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.token_frequencies import token_counts
from mlm.inference.validation_set import find_corpus, load_split
from mlm.models.encoders import supports_packing
from mlm.training.evaluation import validation_batches
from mlm.training.module import MaskedLM, masked_labels

FREQUENCY_BANDS = 10, 100, 1000  # upper limits of the rows of `accuracy_by_frequency`
SHOWN = "[MASK]", "a random token", "the token itself"  # what the model sees at a masked position


@torch.no_grad()
def masked_predictions(model: PreTrainedModel, batches: list[dict[str, Any]]) -> np.ndarray:
    """The most likely token at each of the `positions` of the batches, (K of all batches,)."""
    module = MaskedLM(model, {}).eval()
    predictions = [module.masked_logits(batch).argmax(-1) for batch in batches]
    return torch.cat(predictions).numpy()


def frequency_bands() -> list[str]:
    """The names of the ranges of FREQUENCY_BANDS, from "never" on."""
    limits = (0, *FREQUENCY_BANDS)
    names = [f"{low + 1:,} to {high:,}" for low, high in zip(limits, FREQUENCY_BANDS)]
    return ["never", *names, f"more than {FREQUENCY_BANDS[-1]:,}"]


def accuracy_by_frequency(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> pd.DataFrame | None:
    """Accuracy on the masked validation tokens, by how often the token occurs in the training text.

    Tokens shown as [MASK] have a row for each range of counts: others could be copied without any
    context. Then come rows ("all") for each of SHOWN, and for all masked tokens. The columns are the
    number of masked tokens, the accuracy of always predicting the most frequent token, which is printed,
    and the accuracy of each model. Returns None if the run's corpus is not in `workdir`.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        return None
    train, valid = (load_split(folder, split, tokenizer, results) for split in ("train", "valid"))
    counts = token_counts(train)
    most_frequent = int(counts.argmax())
    print(f"most frequent token: {tokenizer.convert_ids_to_tokens(most_frequent)!r}")
    pack = all(supports_packing(model.config) for model in models.values())
    batches = validation_batches(valid, results["parameters"]["seed"], pack)
    labels = torch.cat([masked_labels(batch) for batch in batches]).numpy()
    inputs = torch.cat([b["input_ids"].flatten()[b["positions"]] for b in batches]).numpy()
    correct = {"most frequent token": labels == most_frequent}
    correct |= {
        name: masked_predictions(model, batches) == labels for name, model in models.items()
    }

    is_target = labels != -100  # -100 fills up the positions of a batch
    table = pd.DataFrame({"masked tokens": 1, **correct})[is_target]
    inputs, labels = inputs[is_target], labels[is_target]
    shown = np.select([inputs == tokenizer.mask_token_id, inputs == labels], [0, 2], 1)
    band = np.searchsorted((0, *FREQUENCY_BANDS), counts[labels])
    bands = enumerate(frequency_bands())
    groups = {(0, name): (shown == 0) & (band == i) for i, name in bands}
    groups |= {(i, "all"): shown == i for i in range(len(SHOWN))}
    rows = {(SHOWN[i], name): table[group] for (i, name), group in groups.items() if group.any()}
    rows["all", "all"] = table
    aggregates = {"masked tokens": "sum", **dict.fromkeys(correct, "mean")}
    result = pd.DataFrame({key: group.agg(aggregates) for key, group in rows.items()}).T
    result = result.rename_axis(["shown as", "times in the training text"])
    return result.astype({"masked tokens": int})
