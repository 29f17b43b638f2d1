"""What 01 shows of this machine."""

import os
import re

from mlm.env.device_table import list_devices, time_matrix_products
from mlm.env.hardware import run_in_subprocess


def test_this_cpu_is_listed():
    device, model, memory, bf16 = list_devices()[0]
    assert device == "CPU" and f"{os.cpu_count()} cores" in model
    assert re.fullmatch(r"\d+ GB", memory) and bf16 in ("in hardware", "emulated, slow")


def test_matrix_products_are_exact_up_to_rounding():
    rows = run_in_subprocess(time_matrix_products, "cpu", 64)
    assert [row[:2] for row in rows] == [["cpu", "torch.float32"], ["cpu", "torch.bfloat16"]]
    for (_, _, error, gflops), rounding in zip(rows, (1e-6, 1e-2)):
        assert 0 < error < rounding and gflops > 0
