"""A model's use for a task: texts -> vectors -> classes, with a frozen and with a fine-tuned encoder.

Taught in 07. Both encoders of a comparison, before and after training, are treated alike.
"""

import copy
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.inference.vectors import READ_TEXTS, pool, to_batch

TRAIN_TEXTS = 16  # per batch of fine-tuning
BASE_LR, BASE_WIDTH = 5e-5, 768  # of fine-tuning BERT-base; narrower encoders take larger steps

# classifiers


def text_words(text: str) -> list[str]:
    """The words of a text; of a text without words, such as emoji, its characters."""
    return re.findall(r"\w+", text) or re.findall(r"\S", text)


def tfidf_classifier() -> Pipeline:
    """TF-IDF of words and pairs of words, then logistic regression: a strong baseline without a model."""
    features = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, tokenizer=text_words, token_pattern=None
    )
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


def scores(labels: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and macro-F1: the mean of the classes' F1, so that a rare class counts as much."""
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro-F1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
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


def verdict(table: pd.DataFrame, labels: int, kind: str, before: str, after: str) -> str:
    """One sentence: did training help, by more than the spread of the seeds, and is TF-IDF better?

    table: see `summary`. labels: per class. kind: "frozen" or "fine-tuned"; before, after: the names of
    the models. The seeds draw the same labelled texts for both, so differences are taken per seed.
    """
    rows = table[table["labels"] == labels]
    accuracy = 100 * rows.pivot(index="seed", columns="method", values="accuracy")
    old, new, tfidf = (accuracy[m] for m in (f"{kind}, {before}", f"{kind}, {after}", "TF-IDF"))
    gains = new - old
    gain, spread = gains.mean(), gains.max() - gains.min()
    if abs(gain) <= spread:
        effect = "makes no clear difference"
    else:
        effect = "helps" if gain > 0 else "hurts"
    relation = "more" if abs(gain) > spread else "not more"
    lead = tfidf - (old if old.mean() > new.mean() else new)
    rival = f"TF-IDF without a language model reaches {tfidf.mean():.1f}%, "
    if abs(lead.mean()) <= lead.max() - lead.min():
        rival += "no clear difference from the better encoder"
    else:
        rival += "more: it wins" if lead.mean() > 0 else "less"
    return (
        f"With {labels} labels per class and a {kind} encoder, training on your text {effect}: accuracy "
        f"{old.mean():.1f}% before, {new.mean():.1f}% after, a difference of {round(gain, 1) + 0.0:+.1f} points, which is "
        f"{relation} than its spread over {len(gains)} seeds ({spread:.1f} points); {rival}."
    )
