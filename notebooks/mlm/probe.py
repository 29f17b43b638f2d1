"""Is an encoder good for anything else? A linear probe on its frozen states, for a task the text gives."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .gaps import text_of
from .tokens import MaskedLMDataset

TENTHS = 10
FEWEST = 5000  # lines of a text of which every tenth has a whole run of 50 held out
LINES = 2000, 1000  # so many to learn from and to be scored on, if there are so many
STRENGTHS = 1e-4, 1e-3, 1e-2, 0.1, 1.0  # of the ridge, for rows of mean square norm 1


def lines_of(part, lines):
    """Which of so many lines of a text are in its "train" or "valid" part, by the rule of `split_text`."""
    numbers, run = np.arange(lines), min(50, lines // 10)
    return numbers[(numbers // run % 10 == 9) == (part == "valid")]


def sample(data, places, lines, most):
    """(numbers, tenths) of at most so many examples, evenly spread over a text: (n,) int64.

    A tenth, 0 to 9, is where in the text of so many `lines` an example stands, of which `places` says
    the line. They are sorted by length, so that little is padded.
    """
    numbers = np.unique(np.linspace(0, len(data) - 1, most).astype(int))
    numbers = numbers[np.argsort(data.lengths[numbers], kind="stable")]
    return numbers, torch.from_numpy(places[numbers] * TENTHS // lines)


@torch.no_grad()
def states(bert, data, numbers):
    """The encoder's last hidden states of these lines, averaged over the tokens of each: (n, H)."""
    found = []
    for some in torch.from_numpy(numbers).split(32):
        batch = data.tokenizer.pad({"input_ids": [data[i] for i in some]}, return_tensors="pt")
        hidden = bert.base_model(**batch).last_hidden_state  # (B, T, H)
        there = batch["attention_mask"][:, :, None]
        found.append((hidden * there).sum(1) / there.sum(1))
    return torch.cat(found)


def bags(datas, numbers):
    """Which tokens stand in these lines, in no order: (n, V) of the first text's tokens, for each text.

    Rare ones count more: each token is weighted by the logarithm of one over its share of the lines.
    """
    lines = [[data[i][1:-1] for i in some] for data, some in zip(datas, numbers)]
    known = torch.cat(lines[0]).unique()
    made = [torch.stack([torch.isin(known, line) for line in some]).float() for some in lines]
    weights = -made[0].mean(0).log()
    return [F.normalize(bag * weights) for bag in made]


def fit(x, y, strength):
    """Weights (D, C) of a ridge regression of the classes y (n,) on x (n, D)."""
    gram = x @ x.T + strength * len(x) * torch.eye(len(x))
    return x.T @ torch.linalg.solve(gram, F.one_hot(y, TENTHS) - 1 / TENTHS)


def right(weights, x, y):
    """Share of the rows whose class has the highest score."""
    return float(((x @ weights).argmax(1) == y).double().mean())


def probe(x, y, held_out_x, held_out_y):
    """Accuracy of a linear classifier on held-out rows; every fifth row chooses its strength."""
    middle = x.mean(0)
    scale = (x - middle).square().sum(1).mean().sqrt()
    x, held_out_x = (x - middle) / scale, (held_out_x - middle) / scale
    fifth = torch.arange(len(x)) % 5 == 0
    tried = {s: right(fit(x[~fifth], y[~fifth], s), x[fifth], y[fifth]) for s in STRENGTHS}
    return right(fit(x, y, max(tried, key=tried.get)), held_out_x, held_out_y)


def which_tenth(models, tokenizer, record, workdir):
    """How often a linear probe finds the tenth of a text that a held-out line is from.

    A DataFrame of accuracies: of chance, of the tokens in no order, of the encoder of each of `models`,
    {name: a masked LM in eval mode}. None, and a line that says why, where the run's text is not in
    `workdir` or too short, or its held-out lines are of another text.
    """
    length, lines = record["parameters"]["max_len"], record["data"]["lines"]
    folder = text_of(record, workdir)
    if folder is None:
        return None
    if record["parameters"].get("valid_corpus"):
        print("The held-out lines are of another text, so they are from no tenth of this one.")
        return None
    if lines < FEWEST:
        print(
            f"The text has {lines:,} lines: not each tenth of it has some held out to be asked about."
        )
        return None
    parts = "train", "valid"
    datas = [MaskedLMDataset(folder / f"{part}.txt", tokenizer, length) for part in parts]
    (numbers, y), (others, held_out_y) = (
        sample(data, lines_of(part, lines), lines, most)
        for data, part, most in zip(datas, parts, LINES)
    )
    seen = {"the tokens, in no order": bags(datas, (numbers, others))}
    for name, bert in models.items():
        seen[name] = [states(bert, d, some) for d, some in zip(datas, (numbers, others))]
    scores = {name: probe(x, y, other, held_out_y) for name, (x, other) in seen.items()}
    chance = float(F.one_hot(held_out_y, TENTHS).double().mean(0).max())
    return pd.DataFrame({"right": {"always the same tenth": chance, **scores}})
