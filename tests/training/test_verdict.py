"""The verdict on a run says what its losses mean, names a cause from evidence, and what to do."""

import math

import numpy as np
import pytest

from mlm.training.verdict import CAUSES, Evidence, verdict

BASELINE = 5.6


def evidence(validation, training, from_scratch=True, steps=2400, epochs=10, **others):
    """Losses at regular distances up to `steps`; validation starts at step 0, training at the first line."""
    every = steps / max(len(validation) - 1, 1)
    return Evidence(
        validation=[(round(every * n), loss) for n, loss in enumerate(validation)],
        training=[(round(steps * (n + 1) / len(training)), x) for n, x in enumerate(training)],
        **{"baseline": BASELINE, "from_scratch": from_scratch, "epochs": epochs} | others,
    )


FALLING = (7.5, 5.5, 5.0, 4.5, 4.2, 4.0, 3.8, 3.6)
FLAT = (6.4, 5.8, 5.7, 5.7, 5.68, 5.7, 5.69, 5.7)


@pytest.mark.parametrize(
    "cause, run, learned, words",
    [
        ("none", evidence((8.3, 3.2), FALLING), True,
         "uses context: its validation loss is 2.40 nats below the unigram baseline (perplexity 25 instead of 270)"),
        ("none", evidence((6.9, 3.0, 3.05), FALLING), True, "uses context"),
        ("none", evidence((6.9, 3.0), (5.0, 2.0, 1.0)), True, "uses context"),
        # a fine-tuned model at its plateau, in both directions; its training masks more tokens
        ("none", evidence((2.10, 2.08), (2.6, 2.5, 2.6), False), True, "hardly changed it (2.10 before)"),
        ("none", evidence((2.10, 2.14), (2.6, 2.5, 2.6), False), True, "hardly changed it (2.10 before)"),
        ("none", evidence((2.10, 1.90), (2.6, 2.5, 2.4), False), True, "(perplexity 6.7 instead of 270)"),
        # overfitting
        ("overfitting", evidence((6.9, 5.7, 7.3), (6.0, 4.0, 2.0, 0.5), epochs=100), False,
         "validation loss was 5.70 at step 1,200 and rose to 7.30, while the training loss fell to"),
        ("overfitting", evidence((6.9, 3.0, 3.2), FALLING, epochs=100), True, "pass about 50 epochs, use more text, or"),
        ("overfitting", evidence((6.8, 9.3), (6.0, 2.0, 0.3, 0.3, 0.3)), False, "rose from 6.80 to 9.30"),
        ("overfitting", evidence((2.1, 2.6), (2.4, 1.9, 1.2), False), True, "rose from 2.10 to 2.60"),
        ("overfitting", evidence((8.4, 5.9, 5.8), (6.9, 5.0, 4.0, 3.0)), False, "check that the validation text"),
        ("overfitting", evidence((3.0, 7.0), (4.0, 3.6, 3.5), False), False, "validation text of the same kind"),
        # divergence: the training loss itself rose
        ("divergence", evidence((8.3, 4.0, 5.6), (6.0, 4.2, 4.0, 5.7, 5.7, 5.7)), False, "training loss rose from 4.00 to 5.70"),
        ("divergence", evidence((2.1, 6.6), (2.5, 3.9, 6.8, 6.6, 6.6), False), False, "pass a lower"),
        ("divergence", evidence((6.8, 66.0), (6.0, 20.0, 70.0)), False, "leave lr to the recipe"),
        ("divergence", evidence((8.3, math.nan), FALLING), False, "validation loss is nan"),
        ("divergence", evidence((8.3, 4.0), (6.0, math.inf)), False, "training loss inf"),
        ("divergence", evidence((8.3, 4.0), FALLING, baseline=math.nan), False, "diverged"),
        # a pretrained model that is spoiled by the first steps and does not recover
        ("learning rate", evidence((2.1, 6.6), (6.9, 6.7, 6.6, 6.55), False), False, "rose from 2.10 before training to 6.60"),
        ("learning rate", evidence((4.7, 27.5, 25.2, 4.7), (9.0, 30.0, 15.0, 9.0), baseline=2.5), False, "to 27.50 and ended at 4.70"),
        ("learning rate", evidence((6.0, 33.0, 5.9), (40.0, 20.0, 10.4), False), False, "rose from 6.00 before training to 33.00"),
        ("learning rate", evidence((2.1, 2.9), (4.0, 3.3, 3.2), False), True, "made the model worse"),
        # the only training loss is of before the first update
        ("learning rate", evidence((6.86, 29.4), (6.6,), steps=1), False, "rose from 6.86 before training to 29.40"),
        # the highest loss is the one before training, but the largest rise comes later
        ("learning rate", evidence((8.3, 5.0, 5.2), (6.5, 5.3, 5.4, 5.5)), True, "rose from 5.00 at step 1,200 to 5.20"),
        # the lowest loss is not the last one, but no lower than it
        ("overfitting", evidence((8.4, 5.801, 5.803), (6.9, 5.0, 4.0, 3.0)), False, "its validation loss is 5.80, while"),
        # too few steps
        ("too few steps", evidence((8.3, 5.5), (7.0, 6.0), steps=60, epochs=0.3, limit="max_steps=-1"), False,
         "pass about 10 epochs with max_steps=-1, or fine-tune"),
        # each example was seen at most once: a gap between the two losses is no overfitting
        ("too few steps", evidence((8.4, 6.3, 6.1), (7.0, 5.9, 5.1, 4.8), steps=30, epochs=0.15), False, "does not use context yet"),
        ("overfitting", evidence((8.4, 6.3, 6.1), (7.0, 5.9, 5.1, 4.8), epochs=0.5, repeated_fraction=0.6), False, "are copies of others"),
        # pydoc, measured: the training text has easier tokens, so its loss is lower from the first epoch on
        ("too few steps", evidence((8.4, 5.98, 5.72, 5.59, 5.53), (6.5, 5.2, 4.9, 4.7, 4.6, 4.5), steps=398, epochs=2,
         baseline=6.02, visible_gain=0.48, easier=0.74), False, "does not use context yet"),
        ("overfitting", evidence((8.4, 5.9, 5.8), (6.9, 5.0, 4.0, 3.0), easier=0.74), False, "overfits"),
        # a validation text that is easier than the training text hides no overfitting, and makes none
        ("too few steps", evidence((8.3, 5.5), (6.4, 5.8, 5.6, 5.4), steps=1500, easier=-2.0), False, "pass about"),
        ("too few steps", evidence((8.3, 5.86), FLAT, steps=57), False, "too short for a model from scratch: fine-tune"),
        ("too few steps", evidence((8.3, 5.5), FLAT, steps=1500, epochs=1), False, "pass about 2 epochs"),
        ("too few steps", evidence((10.7, 5.5), (9.0, 7.0, 6.5, 6.0, 5.6), False, steps=100, epochs=1), False, "pass more epochs, or use more text"),
        ("too few steps", evidence((8.3, 8.29), (8.3,), steps=1, epochs=0.01), False, "after 1 step(s)"),
        ("too few steps", evidence((8.3, 8.29), (), steps=1, epochs=0.01), False, "after 1 step(s)"),
        ("too few steps", evidence((10.7, 10.6), (10.7,), False, steps=1), False, "pass more epochs"),
        ("too few steps", evidence((6.4, 6.38, 6.36), (6.4, 6.39, 6.38, 6.37), False, steps=8, epochs=0.3, limit="a larger patience"), False,
         "pass more epochs with a larger patience, or use more text"),
        ("too few steps", evidence((8.3, 8.0, 7.4), (8.3, 8.1, 7.7, 7.3), False, steps=600, unk_fraction=0.32), False, "32% of the letters"),
        # plateaus
        ("plateau", evidence((8.3, 5.62), FLAT), False, "and no longer falls"),
        ("plateau", evidence((10.7, 5.6), FLAT, False, steps=500), False, "neighbouring tokens do not predict"),
        # an untrained model is below the baseline of masked tokens that the training text lacks
        ("too few steps", evidence((5.70, 5.71), (5.9,), steps=1, epochs=1, baseline=7.57, visible_gain=0.4, uniform=5.67), False,
         "5.71 is not clearly below 5.67, at which all tokens are equally likely (unigram baseline: 7.57; the masked tokens are rare"),
        ("none", evidence((5.70, 4.1), (5.9, 5.0, 4.0), baseline=7.57, uniform=5.67), True, "uses context"),
        # below the unigram baseline, but not below what needs no context
        ("plateau", evidence((8.3, 5.2), FLAT, visible_gain=0.42), False, "below 5.18, which needs no context"),
        ("none", evidence((8.3, 5.0), FLAT, visible_gain=0.42), True, "0.60 nats below"),
        # the text
        ("unknown tokens", evidence((8.3, 5.62), FLAT, unk_fraction=0.45), False, "45% of the letters of the training text are in [UNK]"),
        ("none", evidence((8.3, 3.2), FALLING, unk_fraction=0.3), True, "30% of the letters of the training text are in [UNK]"),
        ("overfitting", evidence((6.8, 9.3), (6.0, 0.3, 0.3, 0.3), repeated_fraction=0.92), False,
         "92% of the training examples are copies"),
    ],
)  # fmt: skip
def test_the_verdict_names_the_cause_and_says_what_to_do(cause, run, learned, words):
    found = verdict(run)
    assert (found["cause"], found["learned"]) == (cause, learned), found["text"]
    assert words in found["text"] and "\n" not in found["text"], found["text"]
    below = run.baseline - run.after
    assert found["nats_below_baseline"] == (pytest.approx(below) if math.isfinite(below) else None)


def test_every_cause_is_tested():
    (mark,) = test_the_verdict_names_the_cause_and_says_what_to_do.pytestmark
    assert {cause for cause, *_ in mark.args[1]} == {*CAUSES}


def test_losses_after_the_weights_that_are_kept_do_not_count():
    """keep="best": training overfitted later."""
    training = [(100 * n, 6.0 - 0.5 * n) for n in range(1, 11)]
    run = Evidence([(0, 8.0), (200, 4.8)], training, BASELINE, from_scratch=True, epochs=2)
    assert verdict(run)["cause"] == "none"
    assert run.last_training == 5.0


def test_there_is_a_verdict_on_any_losses():
    random = np.random.default_rng(0)
    for _ in range(3000):
        validation = random.normal(5, random.choice([0.1, 1]), random.integers(1, 6))
        training = random.normal(5, random.choice([0.1, 1]), random.integers(0, 9))
        run = evidence(
            validation, training, bool(random.integers(2)), int(random.integers(1, 3000))
        )
        assert verdict(run)["cause"] in CAUSES
