"""Matrix products on a CPU: the library for float32, and how fast bfloat16 is."""

import pytest
import torch

from mlm.env import products
from mlm.env.products import (
    PRODUCTS,
    bf16_speed,
    linear_step,
    onednn_float32,
    precisions,
    reset_float32,
    restored_float32,
)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_float32_products_keep_their_precision(monkeypatch, is_rounded):
    """oneDNN is not used where it rounds; a test pretends that by numbers with a large error."""
    precision, randn = torch.get_float32_matmul_precision(), torch.randn
    try:
        with monkeypatch.context() as patch:
            if is_rounded:
                patch.setattr(
                    torch, "randn", lambda *size, **options: 1000 * randn(*size, **options)
                )
            is_used = onednn_float32()
        assert not (is_used and is_rounded)
        assert torch.get_float32_matmul_precision() == ("medium" if is_used else "highest")
        rows, columns = torch.randn(2, 128, 512, generator=torch.Generator().manual_seed(1))
        exact = rows.double() @ columns.double().T
        assert (rows @ columns.T - exact).abs().max() < 1e-3
    finally:
        reset_float32()
        torch.set_float32_matmul_precision(precision)


def test_only_libraries_that_keep_the_precision_are_timed():
    """And asking for them changes nothing in the process."""
    with restored_float32():
        torch.set_float32_matmul_precision("high")
        found = precisions()
        assert torch.get_float32_matmul_precision() == "high"
    assert found["default"] == "highest" and list(found) == list(PRODUCTS)[: len(found)]
    assert found.get("onednn", "medium") == "medium"


def test_the_setting_of_the_user_survives_a_measurement():
    with restored_float32():
        torch.set_float32_matmul_precision("high")
        assert bf16_speed() > 0
        assert torch.get_float32_matmul_precision() == "high" and not products.precisions_before


@pytest.mark.parametrize("slowdown, bf16_is_faster", [(0, True), (4, False)])
def test_the_speed_of_bf16_is_relative_to_float32(monkeypatch, slowdown, bf16_is_faster):
    """A CPU on which float32 or bfloat16 takes much longer."""

    def step(rows, inner, columns, dtype=torch.float32):
        repeats = 1 + slowdown if dtype == torch.bfloat16 else 5 - slowdown
        matrix = torch.ones(128, 128)
        return lambda precision: [matrix @ matrix for _ in range(20 * repeats)]

    monkeypatch.setattr(products, "linear_step", step)
    speed = bf16_speed()
    assert speed > 2 if bf16_is_faster else speed < 0.5


def test_a_timed_layer_computes_the_products_of_training():
    """One product forward and two backward, also where autocast rounds to bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        with torch.profiler.profile() as profile:
            linear_step(8, 16, 32, dtype)("highest")
        names = [event.name for event in profile.events()]
        assert sum(name in ("aten::mm", "aten::addmm") for name in names) == 3, names
