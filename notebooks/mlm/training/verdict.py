"""What the losses of a run mean, in one sentence."""

import math
from typing import Any

STEPS_FROM_SCRATCH = 2000  # steps after which a narrow model from scratch uses context
MAX_EPOCHS = 40  # with more epochs a model overfits
MIN_BELOW_BASELINE = 0.3  # nats below the unigram baseline that show the use of context
MAX_RISE = 0.1  # nats by which the validation loss may rise after its minimum
FINE_TUNE = 'fine-tune a pretrained model (model="bert-base-uncased")'


def verdict(
    evaluations: list[tuple[int, float]], baseline: float, from_scratch: bool, epochs: float
) -> dict[str, Any]:
    """What a run's losses mean, as {"nats_below_baseline", "learned", "text"}.

    `evaluations` are pairs (step, validation loss in nats); the first one was made before training.
    `baseline` is the unigram loss, `from_scratch`: the weights were random, `epochs`: how often the
    run has seen the text.
    """
    before = evaluations[0][1]
    steps, after = evaluations[-1]
    best_step, best = min(evaluations, key=lambda evaluation: evaluation[1])
    below = baseline - after
    if after > best + MAX_RISE and best_step > 0:
        fewer = max(1, round(epochs * best_step / steps))
        text = (
            f"The model overfits: its validation loss was {best:.2f} at step {best_step:,} and rose to "
            f"{after:.2f} (unigram baseline: {baseline:.2f}); pass about {fewer} epochs, use more text, "
            f"or {FINE_TUNE}"
        )
    elif after > before:
        text = (
            f"Training made the model worse: its validation loss rose from {before:.2f} to {after:.2f}; "
            "the learning rate is too high for this model: leave lr to the recipe, or pass a lower one"
        )
    elif below < MIN_BELOW_BASELINE:
        text = (
            f"The model does not use context yet: its validation loss of {after:.2f} is not clearly "
            f"below the unigram baseline of {baseline:.2f}; {longer_training(steps, epochs, from_scratch)}"
        )
    else:
        text = (
            f"The model uses context: its validation loss is {below:.2f} nats below the unigram baseline "
            f"(perplexity {math.exp(after):,.0f} instead of {math.exp(baseline):,.0f})"
        )
    return {"nats_below_baseline": below, "learned": below >= MIN_BELOW_BASELINE, "text": text}


def longer_training(steps: int, epochs: float, from_scratch: bool) -> str:
    """What to do if a run of this length was too short."""
    if not from_scratch:
        return "pass more epochs, or use more text"
    enough = math.ceil(STEPS_FROM_SCRATCH / max(steps, 1) * epochs)
    if enough <= MAX_EPOCHS:
        return f"pass about {enough} epochs, or {FINE_TUNE}"
    return f"the text is too short for a model from scratch: {FINE_TUNE}"
