"""What a run says of itself."""

import pytest

from mlm.record import verdict


@pytest.mark.parametrize(
    "before, after, scratch, steps, epochs, learned, words",
    [
        (8.3, 3.2, True, 1990, 10, True, "reads the context: 2.40 nats better"),
        (8.3, 5.5, True, 60, 0.3, False, "60 steps are too few for a model from scratch: pass about 10"),
        (8.3, 5.86, True, 57, 10, False, "pass about 351 epochs"),
        (8.3, 5.5, True, 9000, 90, False, "pass more epochs, or fine-tune"),
        (10.7, 5.5, False, 100, 1, False, "pass more epochs, or more text"),
        (6.8, 66.0, True, 1990, 10, False, "WORSE than before training (6.80 before, 66.00 after)"),
        (3.0, 3.1, False, 100, 1, True, "WORSE than before training"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_to_do(before, after, scratch, steps, epochs, learned, words):
    found = verdict(before, after, 5.6, scratch, steps, epochs)
    assert words in found["text"] and found["learned"] == learned
    assert found["nats_below_baseline"] == pytest.approx(5.6 - after)
