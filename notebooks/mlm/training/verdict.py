"""What the losses of a run mean, in one sentence."""

import math

ENOUGH = 2000  # steps after which a narrow model from scratch has left word frequencies behind


MOST_EPOCHS = 40  # more of them teach a text by heart


MARGIN = 0.3  # nats below the unigram baseline: clearly more than word frequencies


RISE = 0.1  # nats by which the held-out loss may rise again


PRETRAINED = 'fine-tune a pretrained one (model="bert-base-uncased")'


def verdict(measured, baseline, scratch, epochs):
    """What a run's losses mean, as {"nats_below_baseline", "learned", "text"}.

    `measured`: (step, held-out loss in nats) of each measurement, the first before training;
    `scratch`: random weights; `epochs`: how often the run has seen the text.
    """
    (_, before), (steps, after) = measured[0], measured[-1]
    best_step, best = min(measured, key=lambda row: row[1])
    below, advice = baseline - after, "pass more epochs, or more text"
    if scratch:
        more = math.ceil(ENOUGH / max(steps, 1) * epochs)
        advice = f"the text is too short for a model from scratch: {PRETRAINED}"
        if more <= MOST_EPOCHS:
            advice = f"pass about {more} epochs, or {PRETRAINED}"
    if after > best + RISE and best_step > 0:
        text = (
            f"it learns the text by heart: the held-out loss was {best:.2f} at step {best_step:,} and "
            f"rose to {after:.2f} (word frequencies: {baseline:.2f}); pass about "
            f"{max(1, round(epochs * best_step / steps))} epochs, more text, or {PRETRAINED}"
        )
    elif after > before:
        text = (
            f"WORSE than before training ({before:.2f} before, {after:.2f} after): the learning rate is "
            "too high for this model; leave lr to the recipe, or pass a lower one"
        )
    elif below < MARGIN:
        text = (
            f"no more than word frequencies ({after:.2f} against {baseline:.2f} nats): it does not read "
            f"the context yet; {advice}"
        )
    else:
        text = (
            f"it reads the context: {below:.2f} nats better than word frequencies, which hesitate among "
            f"{math.exp(baseline):,.0f} words where the model does among {math.exp(after):,.0f}"
        )
    return {"nats_below_baseline": below, "learned": below >= MARGIN, "text": text}
