"""Is my loss normal? What similar runs reached, in two sentences. docs/loss.md says more."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mlm.data.text_size import PRETRAINED, RESULTS, Result
from mlm.training.datamodule import VALIDATION_MLM_PROBABILITY
from mlm.training.verdict import Evidence

SIX_LAYERS = "a pretrained encoder of six layers with a new MLM head"


@dataclass(frozen=True)
class Size:
    """What decides how low a loss can get, besides the length of training: model, text, masking rate."""

    model: str  # the parameter of 04
    num_bytes: float  # of the text
    mlm_probability: float  # in training


def similar_results(size: Size) -> list[Result]:
    """The measured results of the same kind of model, on texts of the most similar size."""
    model = "scratch:tiny" if size.model.startswith("scratch:") else PRETRAINED
    results = [result for result in RESULTS if result.model == model]
    limits = sorted({result.max_bytes for result in results})
    limit = next((limit for limit in limits if size.num_bytes <= limit), limits[-1])
    return [result for result in results if result.max_bytes == limit]


def span(values: Iterable[float], form: str) -> str:
    """The range of some values as text: "1.9 to 2.7", or "1.9" for a single value."""
    ordered = sorted(values)
    low, high = f"{ordered[0]:{form}}", f"{ordered[-1]:{form}}"
    return low if low == high else f"{low} to {high}"


def compare_with_measured(run: Evidence, size: Size) -> str:
    """What to expect of this kind of model and text, next to this run: two sentences.

    The distance to the unigram baseline is compared: the loss itself also depends on text and tokenizer.
    """
    results = similar_results(size)
    kind = "scratch:tiny" if size.model.startswith("scratch:") else SIX_LAYERS
    texts = " or ".join(dict.fromkeys(result.text for result in results))
    distances = span((r.unigram_baseline - r.valid_loss for r in results), ".1f")
    losses = span((r.valid_loss for r in results), ".1f")
    perplexities = span((math.exp(r.valid_loss) for r in results), ".0f")
    accuracies = span((r.accuracy for r in results), ".0%")
    epochs = span((r.epochs for r in results), "d")
    note = ""
    if size.num_bytes > results[0].max_bytes:
        note = "; longer texts were not measured"
    elif kind == SIX_LAYERS:
        note = "; models that come with their head, such as bert-base-uncased, end lower"
    elif size.model != kind:
        note = f"; for {size.model} there is no such figure, and wider models need more steps"
    place = f"{abs(run.below):.1f} nats {'below' if run.below >= 0 else 'above'} it"
    return (
        f"Is this normal? With {kind} on {texts}, we measured {distances} nats below the unigram baseline "
        f"(validation loss {losses}, perplexity {perplexities}, accuracy {accuracies}) after {epochs} "
        f"epoch(s); this run is {place} after {run.epochs:.3g}{note}. Losses on "
        "other texts or with other tokenizers are not comparable, nor is the training loss: "
        f"{size.mlm_probability:.0%} of the tokens are masked in training, "
        f"{VALIDATION_MLM_PROBABILITY:.0%} in validation."
    )
