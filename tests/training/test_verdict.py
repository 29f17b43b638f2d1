"""The verdict on a run says what its losses mean and what to do."""

import pytest

from mlm.training.verdict import verdict

BASELINE = 5.6


@pytest.mark.parametrize(
    "losses, from_scratch, steps, epochs, learned, words",
    [
        ((8.3, 3.2), True, 1990, 10, True,
         "uses context: its validation loss is 2.40 nats below the unigram baseline (perplexity 25 instead of 270)"),
        ((6.9, 3.0, 3.05), True, 1200, 100, True, "uses context"),
        ((8.3, 5.5), True, 60, 0.3, False, "does not use context yet: its validation loss of 5.50"),
        ((8.3, 5.5), True, 60, 0.3, False, "pass about 10 epochs, or fine-tune"),
        ((8.3, 5.86), True, 57, 10, False, "too short for a model from scratch: fine-tune a pretrained model"),
        ((10.7, 5.5), False, 100, 1, False, "pass more epochs, or use more text"),
        ((6.8, 66.0), True, 1990, 10, False, "made the model worse: its validation loss rose from 6.80 to 66.00"),
        ((6.9, 5.7, 7.3), True, 1200, 100, False, "overfits: its validation loss was 5.70 at step 600 and rose to 7.30"),
        ((6.9, 3.0, 3.2), True, 1200, 100, True, "pass about 50 epochs, use more text, or"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_to_do(losses, from_scratch, steps, epochs, learned, words):
    every = steps // (len(losses) - 1)
    evaluations = [(every * number, loss) for number, loss in enumerate(losses)]
    found = verdict(evaluations, BASELINE, from_scratch, epochs)
    assert words in found["text"] and found["learned"] == learned
    assert found["nats_below_baseline"] == pytest.approx(BASELINE - losses[-1])
