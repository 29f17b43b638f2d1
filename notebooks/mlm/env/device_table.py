"""What 01 shows of this machine: a row for each device, and the speed of matrix products."""

import os
import platform

from mlm.env.hardware import TPU_GB, Machine


def list_devices() -> list[tuple[str, str, str, str]]:
    """A row for each device of this machine: (device, model, memory, support for bfloat16)."""
    import psutil

    machine = Machine()
    bf16 = {True: "in hardware", False: "emulated, slow"}
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    rows = [("CPU", f"{os.cpu_count()} cores, {platform.machine()}", memory, bf16[machine.bf16])]
    for number, card in enumerate(machine.cards if machine.gpus else []):
        supported = card.failure or bf16[card.capability >= (8, 0)]
        rows.append((f"GPU {number}", card.name, f"{card.memory / 1e9:.0f} GB", supported))
    for number in range(machine.tpu_cores):
        tpu_type = os.environ.get("TPU_ACCELERATOR_TYPE", "").split("-")[0]
        memory = f"{TPU_GB[tpu_type]} GB" if tpu_type in TPU_GB else "unknown until it is used"
        rows.append((f"TPU core {number}", tpu_type, memory, bf16[True]))
    return rows


def time_matrix_products(kind: str, size: int) -> list[tuple[str, str, float, float]]:
    """(device, dtype, error, GFLOP/s) of a (size, size) matrix product on each device of a kind.

    The error is the largest difference from the CPU's float64 product, relative to its largest entry.
    The time is measured for a chain of ten products. Starts CUDA or XLA.
    """
    import time

    import torch

    devices, dtypes = [torch.device("cpu")], [torch.float32, torch.bfloat16]
    if kind == "gpu":
        devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        dtypes.append(torch.float16)
    if kind == "tpu":
        import torch_xla

        devices = torch_xla.devices()
    torch.manual_seed(0)
    rows, matrix = [], torch.randn(size, size) / size**0.5  # its powers neither grow nor shrink
    for device, dtype in ((device, dtype) for device in devices for dtype in dtypes):
        factor = matrix.to(device, dtype)
        exact = matrix.to(dtype).double() @ matrix.to(dtype).double()
        error = float(((factor @ factor).cpu().double() - exact).abs().max() / exact.abs().max())
        seconds = []
        for _ in range(3):  # the first is a warm-up: kernels are loaded, XLA compiles
            start, product = time.perf_counter(), factor
            for _ in range(10):
                product = product @ factor
            product.abs().max().item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        rows.append((str(device), str(dtype), error, 10 * 2 * size**3 / min(seconds) / 1e9))
    return rows
