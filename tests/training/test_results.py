"""What a run says of itself."""

import pytest

from mlm.training.verdict import verdict


@pytest.mark.parametrize(
    "losses, scratch, steps, epochs, learned, words",
    [
        ((8.3, 3.2), True, 1990, 10, True, "reads the context: 2.40 nats better"),
        ((8.3, 5.5), True, 60, 0.3, False, "pass about 10 epochs, or fine-tune"),
        (
            (8.3, 5.86),
            True,
            57,
            10,
            False,
            "too short for a model from scratch: fine-tune a pretrained one",
        ),
        ((10.7, 5.5), False, 100, 1, False, "pass more epochs, or more text"),
        (
            (6.8, 66.0),
            True,
            1990,
            10,
            False,
            "WORSE than before training (6.80 before, 66.00 after)",
        ),
        (
            (6.9, 5.7, 7.3),
            True,
            1200,
            100,
            False,
            "by heart: the held-out loss was 5.70 at step 600",
        ),
        ((6.9, 3.0, 3.2), True, 1200, 100, True, "pass about 50 epochs, more text, or"),
        ((6.9, 3.0, 3.05), True, 1200, 100, True, "reads the context"),
    ],
)
def test_the_verdict_says_what_to_do(losses, scratch, steps, epochs, learned, words):
    every = steps // (len(losses) - 1)
    measured = [(every * number, loss) for number, loss in enumerate(losses)]
    found = verdict(measured, 5.6, scratch, epochs)
    assert words in found["text"] and found["learned"] == learned
    assert found["nats_below_baseline"] == pytest.approx(5.6 - losses[-1])
