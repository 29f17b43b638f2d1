"""Is my loss normal? What similar runs reached, in a few sentences. docs/loss.md says more."""

import math

from mlm.data.text_size import PRETRAINED, RESULTS, Result
from mlm.env.scratch import PREFIX
from mlm.training.evaluation import VALIDATION_MLM_PROBABILITY
from mlm.training.verdict import Evidence

SIX_LAYERS = "a pretrained encoder of six layers with a new MLM head"
USUAL = 0.3  # nats: runs that differ by less are called equally good; seeds differ by up to 0.16


def similar_results(model: str, num_bytes: float, source: object = None) -> list[Result]:
    """The measured results of the same kind of model: on the same text, otherwise on texts of similar size."""
    kind = "scratch:tiny" if model.startswith(PREFIX) else PRETRAINED
    results = [result for result in RESULTS if result.model == kind]
    if same_text := [result for result in results if f"({source})" in result.text]:
        return same_text
    limits = sorted({result.max_bytes for result in results})
    limit = next((limit for limit in limits if num_bytes <= limit), limits[-1])
    return [result for result in results if result.max_bytes == limit]


def described(result: Result) -> str:
    """What was measured, in words."""
    return (
        f"{result.unigram_baseline - result.valid_loss:.1f} nats below it on {result.text} after "
        f"{result.epochs} epoch(s) (loss {result.valid_loss:.2f}, perplexity {math.exp(result.valid_loss):.0f}, "
        f"accuracy {result.accuracy:.0%})"
    )


def opening(run: Evidence, model: str, source: object, result: Result) -> str:
    """Whether the loss is normal; a question if the same model was not measured on the same text."""
    if f"({source})" not in result.text or model != result.model:
        return "Is this normal?"
    more = run.below - (result.unigram_baseline - result.valid_loss)
    if abs(more) <= USUAL:
        return "This is normal."
    return f"This is {'better' if more > 0 else 'worse'} than the runs that we measured."


def compare_with_measured(
    run: Evidence, model: str, num_bytes: float, mlm_probability: float, source: object = None
) -> str:
    """What to expect of this kind of model and text, next to this run: a few sentences.

    The distance to the unigram baseline is compared: the loss itself also depends on text and tokenizer.
    model: the parameter of 04. num_bytes: of the text. mlm_probability: in training. source: in corpus.json.
    """
    results = similar_results(model, num_bytes, source)
    kind = "scratch:tiny" if model.startswith(PREFIX) else SIX_LAYERS
    note = ""
    if num_bytes > results[0].max_bytes:
        note = "; longer texts were not measured"
    elif kind == SIX_LAYERS:
        note = "; models that come with their head, such as bert-base-uncased, end lower"
    elif model != kind:
        note = f"; for {model} there is no such figure, and wider models need more steps"
    place = (
        f"{abs(run.below):.1f} nats {'below' if run.below >= 0 else 'above'} the unigram baseline"
    )
    return (
        f"{opening(run, model, source, results[0])} After {round(run.epochs, 2):g} epoch(s), the loss is {place}. The median of "
        f"three runs of {kind} was {' and '.join(map(described, results))}{note}. Losses on other texts or "
        f"with other tokenizers are not comparable, nor is the training loss: {mlm_probability:.0%} of "
        f"the tokens are masked in training, {VALIDATION_MLM_PROBABILITY:.0%} in validation."
    )
