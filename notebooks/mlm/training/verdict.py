"""What the losses of a run mean: whether the model has learned, or what went wrong, and what to do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from mlm.data.unknown_text import MANY_UNK

STEPS_FROM_SCRATCH = 2000  # steps after which a narrow model from scratch uses context
MIN_STEPS = 100  # steps before which no cause but their number can be told, for any model
MAX_EPOCHS = 40  # with more epochs a model overfits
MIN_BELOW_BASELINE = 0.3  # nats below the unigram baseline that show the use of context, at least
MARGIN = 0.1  # nats below what a model reaches without context that show the use of context
MAX_RISE = 0.1  # nats by which the validation loss may rise after its minimum
MIN_GAP = 0.5  # nats by which an overfitted model's training loss is below its validation loss
MAX_TRAINING_RISE = 0.5  # nats by which the training loss may rise after its minimum
STILL_FALLING = 0.1  # nats by which the training loss falls in the second half of a run
NO_CHANGE = 0.05  # nats; a smaller difference between two validation losses means nothing
MANY_COPIES = 0.5  # fraction of repeated training examples that is mentioned
FINE_TUNE = 'fine-tune a pretrained model (model="bert-base-uncased")'

Losses = Sequence[tuple[int, float]]  # pairs (step, loss in nats), in order


@dataclass(frozen=True)
class Evidence:
    """What is known about a run, up to the step of the weights that it keeps.

    validation: the first loss was measured before training. training: means since the last log line.
    baseline: the unigram loss. visible_gain: nats below it that need no context. epochs: how often the
    model saw the text. unk_fraction: letters of the training text that are in [UNK].
    repeated_fraction: training examples that are copies of another. easier: nats by which the unigram loss
    of the training text is below the baseline. uniform: the loss of equally likely tokens; it is the lower
    one if the masked tokens are rare in the training text. limit: what more epochs need, "" if nothing.
    """

    validation: Losses
    training: Losses
    baseline: float
    from_scratch: bool
    epochs: float
    visible_gain: float = 0.0
    unk_fraction: float = 0.0
    repeated_fraction: float = 0.0
    easier: float = 0.0
    uniform: float = math.inf
    limit: str = ""

    @property
    def steps(self) -> int:
        return self.validation[-1][0]

    @property
    def before(self) -> float:
        return self.validation[0][1]

    @property
    def after(self) -> float:
        return self.validation[-1][1]

    @property
    def best(self) -> tuple[int, float]:
        """(step, loss) of the lowest validation loss."""
        return min(self.validation, key=lambda pair: pair[1])

    @property
    def highest(self) -> float:
        """The highest validation loss."""
        return max(loss for _, loss in self.validation)

    @property
    def below(self) -> float:
        """How far the validation loss is below the unigram baseline, in nats."""
        return self.baseline - self.after

    @property
    def min_below(self) -> float:
        """How far below the unigram baseline a loss shows the use of context."""
        without_context = max(self.visible_gain, self.baseline - self.uniform)
        return max(MIN_BELOW_BASELINE, without_context + MARGIN)

    @property
    def is_finite(self) -> bool:
        """Whether all losses are numbers."""
        losses = [loss for _, loss in (*self.validation, *self.training)]
        return all(map(math.isfinite, [*losses, self.baseline]))

    @cached_property
    def smooth_training(self) -> list[tuple[int, float]]:
        """The training loss as means over a fifth of the run: single values are noisy."""
        lines = [(step, loss) for step, loss in self.training if step <= self.steps]
        if not lines:
            return [(self.steps, self.after)]
        width = max(1, len(lines) // 5)
        ends = range(width, len(lines) + 1)
        return [(lines[end - 1][0], fmean(x for _, x in lines[end - width : end])) for end in ends]

    @property
    def last_training(self) -> float:
        """The training loss at the end."""
        return self.smooth_training[-1][1]

    @property
    def lowest_training(self) -> float:
        return min(loss for _, loss in self.smooth_training)

    def training_at(self, step: int) -> float:
        """The training loss at a step: in the last log line until then, or in the first one."""
        until = [loss for at, loss in self.smooth_training if at <= step]
        return until[-1] if until else self.smooth_training[0][1]

    @property
    def still_falls(self) -> bool:
        """Whether both losses still fell in the second half of the run; also if that is unknown."""
        half = self.steps // 2
        fall = self.training_at(half) - self.last_training
        middle = [loss for step, loss in self.validation if 0 < step <= half]
        validation_stays = bool(middle) and middle[-1] - self.after < NO_CHANGE
        return len(self.smooth_training) < 4 or (fall > STILL_FALLING and not validation_stays)


# causes


def is_overfitted(run: Evidence, is_worse: bool) -> bool:
    """Whether the training loss is far below the validation loss, or fell while that one rose."""
    best_step, best = run.best
    gap = run.after - run.last_training - max(0.0, run.easier)
    if not is_worse:  # an example that was seen once is not memorized, unless it has copies
        seen_again = run.epochs >= 1 or run.repeated_fraction >= MANY_COPIES
        return gap > MIN_GAP and seen_again
    if best_step > 0:
        return run.last_training < max(best, run.training_at(best_step))
    if run.training and run.last_training >= run.training[0][1]:
        return False  # not even the training text was learned
    return run.last_training < best or gap > 2 * MIN_GAP  # a spoiled model's gap is smaller


def cause_of(run: Evidence) -> str:
    """The key of CAUSES that the evidence points to."""
    if not run.is_finite:
        return "divergence"
    learned = run.below >= run.min_below
    is_worse = run.after > run.best[1] + MAX_RISE
    if learned and not is_worse:
        return "none"
    enough = run.steps >= MIN_STEPS or is_worse  # single batches differ: a few steps say little
    if enough and run.last_training - run.lowest_training > MAX_TRAINING_RISE:
        return "divergence"
    if is_overfitted(run, is_worse):
        return "overfitting"
    if is_worse or (enough and run.highest > run.before + MAX_TRAINING_RISE):
        return "learning rate"
    if run.steps < (STEPS_FROM_SCRATCH if run.from_scratch else MIN_STEPS) or run.still_falls:
        return "too few steps"
    return "unknown tokens" if run.unk_fraction >= MANY_UNK else "plateau"


def uses_context(run: Evidence) -> str:
    text = (
        f"The model uses context: its validation loss is {run.below:.2f} nats below the unigram baseline "
        f"(perplexity {perplexity(run.after)} instead of {perplexity(run.baseline)})"
    )
    knew_before = run.baseline - run.before >= run.min_below
    if knew_before and abs(run.after - run.before) < NO_CHANGE:
        text += f"; training hardly changed it ({run.before:.2f} before): it knew this kind of text already"
    return text


def overfits(run: Evidence) -> str:
    best_step, best = run.best
    if run.after - best < NO_CHANGE:
        change = f"is {run.after:.2f}"
        advice = (
            f"use more text, or {FINE_TUNE}; check that the validation text is of the same kind"
        )
    elif best_step:
        change = f"was {best:.2f} at step {best_step:,} and rose to {run.after:.2f}"
        fewer = max(1, round(run.epochs * best_step / run.steps))
        advice = f"pass about {fewer} epochs, use more text, or {FINE_TUNE}"
    else:
        change = f"rose from {best:.2f} to {run.after:.2f}"
        advice = "pass fewer epochs, use more text, or a validation text of the same kind"
    return (
        f"The model overfits: its validation loss {change}, while the training loss fell to "
        f"{run.last_training:.2f} (unigram baseline: {run.baseline:.2f}); {advice}"
    )


def diverged(run: Evidence) -> str:
    if not run.is_finite:
        training = run.training[-1][1] if run.training else math.nan
        change = f"the last validation loss is {run.after}, the last training loss {training}"
    else:
        change = (
            f"the training loss rose from {run.lowest_training:.2f} to {run.last_training:.2f}, the "
            f"validation loss went from {run.best[1]:.2f} to {run.after:.2f} (unigram baseline: "
            f"{run.baseline:.2f})"
        )
    return f"Training diverged: {change}; leave lr to the recipe, or pass a lower one"


def was_made_worse(run: Evidence) -> str:
    losses = [loss for _, loss in run.validation]
    rises = {end: losses[end] - min(losses[:end]) for end in range(1, len(losses))}
    peak = max(rises, key=rises.__getitem__)  # the end of the largest rise
    step, best = min(run.validation[:peak], key=lambda pair: pair[1])
    when = "before training" if step == 0 else f"at step {step:,}"
    return (
        f"Training made the model worse: its validation loss rose from {best:.2f} {when} to "
        f"{losses[peak]:.2f} and ended at {run.after:.2f}, while the training loss did not fall below "
        f"{run.lowest_training:.2f} (unigram baseline: {run.baseline:.2f}); the learning rate is too high "
        "for this model: leave lr to the recipe, or pass a lower one"
    )


def no_context(run: Evidence, yet: str = "") -> str:
    """The beginning of a sentence: the loss is no lower than one that needs no context."""
    if run.uniform < run.baseline - run.visible_gain:
        return (
            f"The model does not use context{yet}: its validation loss of {run.after:.2f} is not clearly "
            f"below {run.uniform:.2f}, at which all tokens are equally likely (unigram baseline: "
            f"{run.baseline:.2f}; the masked tokens are rare in the training text)"
        )
    return (
        f"The model does not use context{yet}: its validation loss of {run.after:.2f} is not clearly below "
        f"{run.baseline - run.visible_gain:.2f}, which needs no context (unigram baseline: "
        f"{run.baseline:.2f}; 10% of the masked tokens stay visible)"
    )


def has_unknown_tokens(run: Evidence) -> str:
    return f"{no_context(run)}, because the vocabulary does not fit the text"


def needs_more_steps(run: Evidence) -> str:
    return f"{no_context(run, ' yet')} after {run.steps:,} step(s); {longer_training(run)}"


def is_at_plateau(run: Evidence) -> str:
    return (
        f"{no_context(run)}, and no longer falls; either the learning rate does not suit the model "
        "(leave lr to the recipe), or neighbouring tokens do not predict each other in this text (lists, "
        "random words, very short lines)"
    )


CAUSES: dict[str, Callable[[Evidence], str]] = {  # what is wrong: the sentence that says it
    "none": uses_context,
    "overfitting": overfits,
    "divergence": diverged,
    "learning rate": was_made_worse,
    "unknown tokens": has_unknown_tokens,
    "too few steps": needs_more_steps,
    "plateau": is_at_plateau,
}


def perplexity(loss: float) -> str:
    """exp(loss) as text: one decimal below 10, where it matters."""
    value = math.exp(min(loss, 700))
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def longer_training(run: Evidence) -> str:
    """What to do if a run was too short."""
    limit = f" with {run.limit}" if run.limit else ""
    if not run.from_scratch:
        return f"pass more epochs{limit}, or use more text"
    enough = math.ceil(STEPS_FROM_SCRATCH / max(run.steps, 1) * run.epochs)
    if enough <= MAX_EPOCHS:
        return f"pass about {max(enough, math.ceil(run.epochs) + 1)} epochs{limit}, or {FINE_TUNE}"
    return f"the text is too short for a model from scratch: {FINE_TUNE}"


def remarks(run: Evidence) -> str:
    """What else makes the text hard to learn or its losses hard to read; starts with a period."""
    text = ""
    if run.unk_fraction >= MANY_UNK:
        text += (
            f". {run.unk_fraction:.0%} of the letters of the training text are in [UNK], which the model cannot learn: "
            'pass a model for this language, or model="scratch:tiny", which learns a vocabulary'
        )
    if run.repeated_fraction >= MANY_COPIES:
        text += (
            f". {run.repeated_fraction:.0%} of the training examples are copies of others: the text is "
            "smaller than it looks, and the model memorizes it"
        )
    return text


def verdict(run: Evidence) -> dict[str, Any]:
    """What a run's losses mean, as {"nats_below_baseline", "learned", "cause", "text"}.

    "cause" is a key of CAUSES; "none": the model uses context and nothing is wrong.
    """
    cause = cause_of(run)
    return {
        "nats_below_baseline": run.below if math.isfinite(run.below) else None,
        "learned": run.is_finite and run.below >= run.min_below,
        "cause": cause,
        "text": CAUSES[cause](run) + remarks(run),
    }
