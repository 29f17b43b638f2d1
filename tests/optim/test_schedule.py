"""Learning-rate schedules: their shape, and that the table is the only place that lists them."""

import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT
from mlm.optim.schedule import SCHEDULES


@pytest.mark.parametrize("schedule", ["linear", "trapezoid"])
@pytest.mark.parametrize("total", [1, 2, 7, 10, 100, 1000])
def test_the_learning_rate_warms_up_to_its_peak_and_decays(schedule, total):
    factors = np.array([SCHEDULES[schedule](step, total) for step in range(total + 1)])
    assert factors.max() == 1 and factors.min() > 0  # never 0
    (peak,) = np.where(factors == 1)
    assert (np.diff(factors[: peak[0] + 1]) > 0).all() and (np.diff(factors[peak[-1] :]) < 0).all()
    if total >= 100:
        assert 0.04 < peak[0] / total < 0.11 and factors[-1] < 0.04
        fraction_at_peak = len(peak) / total
        assert fraction_at_peak < 0.02 if schedule == "linear" else 0.6 < fraction_at_peak < 0.7


def test_a_constant_schedule_stays_at_the_peak():
    assert {SCHEDULES["constant"](step, 9) for step in range(20)} == {1.0}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total", [1, 3, 10, 1000])
def test_every_schedule_stays_above_0_and_reaches_1_at_most(schedule, total):
    """At 0, XLA would compile the step again."""
    factors = [SCHEDULES[schedule](step, total) for step in range(total + 1)]
    assert min(factors) > 0 and max(factors) <= 1


def test_the_parameter_check_can_read_the_table_before_any_package_is_installed():
    program = (
        "import sys; from mlm.optim.schedule import SCHEDULES\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "notebooks", check=True)
