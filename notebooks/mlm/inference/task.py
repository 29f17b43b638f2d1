"""A model's use for a task: texts -> vectors -> classes, with a frozen and with a fine-tuned encoder.

Taught in 07. Both encoders of a comparison, before and after training, are treated alike.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import t as student_t
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.env.notebook import NotebookError
from mlm.inference.vectors import READ_TEXTS, pool, to_batch

TRAIN_TEXTS = 16  # per batch of fine-tuning
# Weights of the classifier on TF-IDF. For 150 classes: 13,000 features, 5 seconds for 4,800 texts.
MAX_TFIDF_WEIGHTS = 2 * 10**6
BASE_LR, BASE_WIDTH = 5e-5, 768  # of fine-tuning BERT-base; narrower encoders take larger steps

KINDS = "frozen", "fine-tuned"  # of encoders
# comparisons of methods; {}: the kind of encoder
TRAINING = "{}: after MLM minus before MLM"
START = "before MLM: {} minus guessing"
TUNING = "before MLM: fine-tuned minus frozen"
NEED = " minus TF-IDF"  # of "after MLM: frozen"; without a run, "as loaded: frozen"
# what a clear difference (1, -1), none (0), or an unfair start (None) means; {}: "8 and 32 labels per class"
TRAINING_ANSWERS = {
    1: "MLM on your text helps with {}",
    0: "MLM on your text makes no clear difference with {}",
    -1: "MLM on your text hurts with {}",
    None: "no conclusion with {} (before MLM its mean is below frozen, or not clearly better than guessing: "
    "finetune_steps may be too small, and the difference only a faster start; repeat with more)",
}
NEED_ANSWERS = {
    1: "yes with {} (an encoder is clearly better than TF-IDF)",
    0: "not clearly with {} (no encoder is clearly better than the simpler TF-IDF)",
    -1: "no with {} (TF-IDF is clearly better than every encoder)",
}

# classifiers


def text_words(text: str) -> list[str]:
    """The words of a text; of a text without words, such as emoji, its characters."""
    return re.findall(r"\w+", text) or re.findall(r"\S", text)


def tfidf_classifier(num_classes: int = 2) -> Pipeline:
    """TF-IDF of words and pairs of words, then logistic regression: a strong baseline without a model.

    With many classes, only the most frequent words and pairs count: each has a weight for every class.
    """
    features = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, tokenizer=text_words, token_pattern=None,
        max_features=MAX_TFIDF_WEIGHTS // num_classes,
    )  # fmt: skip
    return make_pipeline(features, LogisticRegression(C=10, max_iter=1000))


def linear_classifier() -> Pipeline:
    """Standardized features, then logistic regression: a linear probe."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


class TextClassifier(nn.Module):
    """An encoder, mean pooling and a linear layer: texts -> classes. The encoder is a copy of a masked LM's."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        classes: list[str],
        max_len: int,
    ) -> None:
        super().__init__()
        self.tokenizer, self.classes, self.max_len = tokenizer, classes, max_len
        self.encoder = copy.deepcopy(model.base_model)
        self.width = self.encoder.config.get_text_config().hidden_size
        self.linear = nn.Linear(self.width, len(classes))

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """The logits of each class for each text, (texts, classes)."""
        batch = to_batch(self.tokenizer, texts, self.max_len, self.linear.weight.device)
        hidden = self.encoder(**batch).last_hidden_state  # (B, T, H)
        return self.linear(pool(hidden, batch["attention_mask"]))

    @torch.no_grad()
    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most likely class of each text."""
        parts = [texts[start : start + READ_TEXTS] for start in range(0, len(texts), READ_TEXTS)]
        return [self.classes[i] for part in parts for i in self(part).argmax(-1).tolist()]


def fine_tune(
    classifier: TextClassifier, texts: Sequence[str], labels: Sequence[str], steps: int, seed: int
) -> TextClassifier:
    """Train all weights of a classifier for `steps` batches of TRAIN_TEXTS texts; returns it.

    The learning rate rises during the first tenth of the steps, then falls to 0. Its peak is 5e-5 for the
    width of BERT-base, and in inverse proportion for other widths. Dropout is off, so that an encoder that
    was trained without it has no disadvantage.
    """
    classifier.eval()
    targets = torch.tensor([classifier.classes.index(label) for label in labels])
    lr = BASE_LR * BASE_WIDTH / classifier.width
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps + 1), 1 - step / steps)
    )
    generator, order = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        while len(order) < TRAIN_TEXTS:  # the next pass over the texts
            order = np.concatenate([order, generator.permutation(len(texts))])
        chosen, order = order[:TRAIN_TEXTS], order[TRAIN_TEXTS:]
        logits = classifier([texts[i] for i in chosen])
        F.cross_entropy(logits, targets[chosen].to(logits.device)).backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return classifier


# results


def scores(labels: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro-F1 (the mean of the classes' F1, so that a rare class counts as much), and "correct".

    "correct" says for each text whether its class is right, (texts,) bool.
    """
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro-F1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "correct": np.asarray(labels) == np.asarray(predicted),
    }


def summary(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """ "mean (lowest to highest)" of a metric in %, a row for each method, a column for each number of labels.

    `table` has a row for each trained classifier, with the columns method, labels, seed and the metric.
    """
    values = table.groupby(["method", "labels"], sort=False)[metric].agg(["mean", "min", "max"])
    texts = [
        f"{100 * m:.1f} ({100 * low:.1f} to {100 * high:.1f})" for m, low, high in values.values
    ]
    return (
        pd.Series(texts, values.index)
        .unstack("labels")[sorted(table["labels"].unique())]
        .loc[table["method"].unique()]
    )


# comparisons


@dataclass(frozen=True)
class Difference:
    """Between the accuracies of two methods, in points, and the half-width of its 95% interval."""

    points: float
    half_width: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval does not contain 0, else 0."""
        return 0 if abs(self.points) <= self.half_width else int(np.sign(self.points))

    def __str__(self) -> str:
        return f"{round(self.points, 1) + 0.0:+.1f} ± {self.half_width:.1f}"  # never "-0.0"


def mean_difference(gains: np.ndarray) -> Difference:
    """The mean of paired differences (seeds, texts), each from -1 to 1, and its 95% interval.

    Other texts or other seeds would change the mean. So its variance is estimated as the sum of two: the
    variance over the texts / their number, and the variance over the seeds / their number. Student's t has
    the degrees of freedom of Welch and Satterthwaite. If n texts have no exception, a rate of 3/n is
    possible ("rule of three"), so the half-width is at least that.
    """
    means = [m for m in (gains.mean(0), gains.mean(1)) if len(m) > 1]  # of each text, of each seed
    variances = [m.var(ddof=1) / len(m) for m in means]
    half_width = 3 / gains.shape[1]
    if total := sum(variances):
        freedom = total**2 / sum(v**2 / (len(m) - 1) for v, m in zip(variances, means))
        half_width = max(half_width, student_t.ppf(0.975, freedom) * total**0.5)
    return Difference(float(100 * gains.mean()), float(100 * half_width))


def correct_answers(table: pd.DataFrame, labels: int, method: str) -> np.ndarray:
    """Which test texts a method classifies correctly: 1 or 0, (seeds, texts).

    table: a row for each trained classifier, with the columns method, labels, seed and "correct" (`scores`).
    Raises NotebookError if the method lacks a seed that another one has: its cell was interrupted.
    """
    of_size = table[table["labels"] == labels]
    rows, seeds = of_size[of_size["method"] == method], of_size["seed"].nunique()
    if len(rows) < seeds:
        raise NotebookError(
            f"{method!r} has results for {len(rows)} of {seeds} sample(s) with {labels} labels per class: run the cell "
            "that measures it to its end, then all cells below it"
        )
    return np.stack(rows.sort_values("seed")["correct"]).astype(int)


def difference(table: pd.DataFrame, labels: int, new: str, old: str) -> Difference:
    """The accuracy of the method `new` minus the accuracy of `old`, for a number of labels per class.

    Both methods have the same test texts and labelled samples, so differences are paired.
    """
    return mean_difference(
        correct_answers(table, labels, new) - correct_answers(table, labels, old)
    )


def compare(
    table: pd.DataFrame, after: str, before: str | None, num_classes: int
) -> dict[str, dict[int, Difference]]:
    """{comparison: {labels per class: difference}}, for the comparisons named above.

    table: see `correct_answers`. after, before: the names of the models; None: there is no model before.
    A guess among `num_classes` classes is right for each text with probability 1 / num_classes.
    """
    sizes = sorted(table["labels"].unique())
    kinds = [kind for kind in KINDS if f"{kind}, {after}" in set(table["method"])]
    found = {}
    if before:
        for kind in kinds:
            new, old = f"{kind}, {after}", f"{kind}, {before}"
            found[TRAINING.format(kind)] = {n: difference(table, n, new, old) for n in sizes}
        if "fine-tuned" in kinds:
            old = f"fine-tuned, {before}"
            gains = {n: correct_answers(table, n, old) - 1 / num_classes for n in sizes}
            found[START.format("fine-tuned")] = {n: mean_difference(g) for n, g in gains.items()}
            if "frozen" in kinds:
                frozen = f"frozen, {before}"
                found[TUNING] = {n: difference(table, n, old, frozen) for n in sizes}
    for kind in kinds:
        new = f"{kind}, {after}"
        found[f"{after}: {kind}{NEED}"] = {n: difference(table, n, new, "TF-IDF") for n in sizes}
    return found


def answer(answers: dict[Any, str], keys: dict[int, Any]) -> str:
    """The answers to one question. keys: {labels per class: key of the answer}."""
    sizes = {key: [str(n) for n, k in keys.items() if k == key] for key in answers}
    return "; ".join(
        text.format(f"{', '.join(sizes[key])} labels per class")
        for key, text in answers.items()
        if sizes[key]
    )


def verdict(found: dict[str, dict[int, Difference]]) -> str:
    """What the differences of `compare` mean, a line for each question.

    Nothing follows from fine-tuning if, before MLM, it is not clearly better than guessing, or worse than the
    linear probe of the frozen encoder: then the steps may be too few. The encoder is needed if one kind,
    frozen or fine-tuned, is clearly better than TF-IDF. It is not if TF-IDF is clearly better than each kind.
    """
    lines = []
    for kind in KINDS:
        signs = {n: d.sign for n, d in found.get(TRAINING.format(kind), {}).items()}
        starts = found.get(START.format(kind), {})
        tuning = found.get(TUNING, {})
        is_short = {
            n: start.sign < 1 or (n in tuning and tuning[n].points < 0)
            for n, start in starts.items()
        }
        keys = {n: None if is_short.get(n) else sign for n, sign in signs.items()}
        if keys:
            lines.append(f"{kind} encoder: {answer(TRAINING_ANSWERS, keys)}.")
    needs = [row for name, row in found.items() if name.endswith(NEED)]
    text = answer(NEED_ANSWERS, {n: max(need[n].sign for need in needs) for n in needs[0]})
    lines.append(f"Do you need the encoder? {text[0].upper()}{text[1:]}.")
    widths = [d.half_width for need in needs for d in need.values()]
    lines.append(
        "No clear difference does not mean equal: a difference from TF-IDF is clear only above its half-width, "
        f"{min(widths):.1f} to {max(widths):.1f} points here."
    )
    return "\n".join(lines)
