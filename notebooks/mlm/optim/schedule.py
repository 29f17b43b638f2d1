"""The learning-rate schedules: one table, SCHEDULES.

A schedule is a function of (step, total_steps) that returns the fraction of the peak learning rate.
To add one, write the function and add it to the table. It must never return 0: XLA would treat that
value as a constant and compile the step again.
"""

import math


def constant(step: int, total_steps: int) -> float:
    """The peak learning rate at every step."""
    return 1.0


def linear(step: int, total_steps: int) -> float:
    """Warm-up over the first tenth of the steps, then linear decay (Devlin et al. 2018, arXiv:1810.04805)."""
    warmup = total_steps // 10
    rise = (step + 1) / (warmup + 1)
    return min(rise, (total_steps - step + 1) / (total_steps - warmup + 1))


def trapezoid(step: int, total_steps: int) -> float:
    """Warm-up over 5% of the steps, then constant, then decay over 30% (Zhai et al. 2022, arXiv:2106.04560)."""
    warmup, decay = total_steps // 20, math.ceil(0.3 * total_steps)
    return min(1.0, (step + 1) / (warmup + 1), (total_steps - step + 1) / (decay + 1))


SCHEDULES = {"constant": constant, "linear": linear, "trapezoid": trapezoid}
