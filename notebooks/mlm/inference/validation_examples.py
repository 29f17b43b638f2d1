"""What models say of the held-out lines of a run: the questions that it was measured by, one by one."""

import numpy as np
import pandas as pd
import torch

from mlm.data.batches import MaskedBatches
from mlm.data.corpus import is_intact
from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import masked_counts
from mlm.data.packing import VALIDATION_EPOCH
from mlm.env.files import absolute_path
from mlm.models.encoders import supports_packing
from mlm.training.datamodule import VALIDATION_MLM_PROBABILITY, MaskedLMData
from mlm.training.module import MaskedLM, masked_labels

FREQUENCY_BANDS = 10, 100, 1000  # a word is rare up to the first, then less so


def find_corpus(record, workdir):
    """The folder with the whole text of a run; None, and a line that says so, where it is not here."""
    for folder in absolute_path("workdir", workdir).glob("corpus/*"):
        if is_intact(folder, record["data"]["sha256"]):
            return folder
    print("The text of this run is not here, so no lines of it can be shown.")


@torch.no_grad()
def validation_examples(models, tokenizer, record, workdir, lines=8):
    """What models say of held-out lines: {line with gaps: [(hidden token, {name: guess}), ...]}.

    The lines are chosen by a rule: of those with 8 to 16 tokens and a question, as many as asked, evenly
    spread over the text. The questions are those that training was measured by. `models` is {name:
    model}. Nothing is found where the run's text is not in `workdir`.
    """
    asked, folder = record["parameters"], find_corpus(record, workdir)
    if folder is None:
        return {}
    data = MaskedLMDataset(folder / "valid.txt", tokenizer, asked["max_len"])
    numbers = np.flatnonzero((data.lengths >= 8) & (data.lengths <= 16))
    share, seed = VALIDATION_MLM_PROBABILITY, asked["seed"]
    numbers = numbers[
        masked_counts(data.maskable[numbers], seed, VALIDATION_EPOCH, numbers, share) > 0
    ]
    if not len(numbers):
        return {}
    numbers = numbers[np.unique(np.linspace(0, len(numbers) - 1, lines).astype(int))]
    keys = [(VALIDATION_EPOCH, np.array([number])) for number in numbers]
    found = {}
    for batch in MaskedBatches(data, keys, share, seed):
        ids, positions = batch["input_ids"], batch["positions"]
        hidden = tokenizer.convert_ids_to_tokens(batch["labels"][0, positions].tolist())
        said = {
            name: tokenizer.convert_ids_to_tokens(
                bert(ids).logits[0, positions].argmax(-1).tolist()
            )
            for name, bert in models.items()
        }
        answers = [dict(zip(said, guesses)) for guesses in zip(*said.values())]
        found[tokenizer.decode(ids[0, 1:-1])] = list(zip(hidden, answers))
    return found


@torch.no_grad()
def accuracy_by_frequency(models, tokenizer, record, workdir):
    """Share of first guesses that are right, by how often the hidden token stands in the training text.

    All held-out questions of a run, in a DataFrame: a row for each of the BANDS, a column for each of
    `models`, {name: model}, one for a guesser who always says the most frequent token. None
    where the run's text is not in `workdir`.
    """
    asked, folder = record["parameters"], find_corpus(record, workdir)
    if folder is None:
        return None
    train, valid = (
        MaskedLMDataset(folder / f"{part}.txt", tokenizer, asked["max_len"])
        for part in ("train", "valid")
    )
    counts = np.bincount(train.ids, minlength=train.vocab_size)
    share_rows = all(supports_packing(bert.config) for bert in models.values())
    data = MaskedLMData(
        train, valid, 32, VALIDATION_MLM_PROBABILITY, asked["seed"], 0, pack=share_rows
    )
    hidden = torch.cat([masked_labels(batch) for batch in data.validation_batches()]).numpy()
    right = {"most frequent": np.full(len(hidden), counts.argmax()) == hidden}
    for name, bert in models.items():
        scores = (
            MaskedLM(bert, {}).eval().masked_logits(batch) for batch in data.validation_batches()
        )
        right[name] = torch.cat([s.argmax(-1) for s in scores]).numpy() == hidden
    names = [
        f"{low + 1:,} to {high:,}" for low, high in zip((0, *FREQUENCY_BANDS), FREQUENCY_BANDS)
    ]
    names = ["never", *names, f"more than {FREQUENCY_BANDS[-1]:,}"]
    band = np.searchsorted((0, *FREQUENCY_BANDS), counts[hidden])
    table = pd.DataFrame({"questions": 1, **right})[hidden != -100]
    found = table.groupby(band[hidden != -100]).agg(
        {"questions": "sum", **dict.fromkeys(right, "mean")}
    )
    return found.rename(index=dict(enumerate(names))).rename_axis("in the training text")
