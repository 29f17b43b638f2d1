"""The learning-rate schedules."""

import math


def lr_factor(step, total_steps, schedule):
    """Share of the peak learning rate at a step: "constant", "linear" or "trapezoid".

    Linear rises over a tenth of the steps, then falls to the end. Trapezoid rises over a twentieth,
    stays, and falls over the last three tenths (Zhai et al. 2022, arXiv:2106.04560). Never 0: an XLA
    compiler takes that for a constant and starts over.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        warmup = total_steps // 10
        rise = (step + 1) / (warmup + 1)
        return min(rise, (total_steps - step + 1) / (total_steps - warmup + 1))
    warmup, fall = total_steps // 20, math.ceil(0.3 * total_steps)
    return min(1.0, (step + 1) / (warmup + 1), (total_steps - step + 1) / (fall + 1))
