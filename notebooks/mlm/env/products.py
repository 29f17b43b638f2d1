"""Matrix products on a CPU: which library computes them, and whether bfloat16 is faster than float32."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from mlm.env.timing import shortest_seconds

ROWS, INNER, COLUMNS = 256, 512, 1024  # of the layer that is timed
MAX_SECONDS = 0.2  # of timing

precisions_before: list[str] = []  # torch's setting, while this module has changed it

# float32


def default_float32() -> bool:
    """Let torch's default library compute float32 matrix products; returns True."""
    if not precisions_before:
        precisions_before.append(torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")
    return True


def onednn_float32() -> bool:
    """Let oneDNN compute float32 matrix products if it keeps their precision; returns whether it does.

    torch uses oneDNN with the setting "medium", which also permits it to round to bfloat16. Processors
    with AMX do round. There the setting is undone. `reset_float32` undoes it, too.
    """
    default_float32()
    torch.set_float32_matmul_precision("medium")
    rows, columns = torch.randn(2, 256, 1024, generator=torch.Generator().manual_seed(0))
    exact = rows.double() @ columns.double().T
    is_rounded = bool((rows @ columns.T - exact).abs().max() > 1e-3)  # about 0.1 in bfloat16
    if is_rounded:
        torch.set_float32_matmul_precision("highest")
    return not is_rounded


def reset_float32() -> None:
    """Undo the functions above: on a GPU, "medium" would round float32 products."""
    if precisions_before:
        torch.set_float32_matmul_precision(precisions_before.pop())


@contextlib.contextmanager
def restored_float32() -> Iterator[None]:
    """Context manager: afterwards, float32 products are computed as before."""
    precision, saved = torch.get_float32_matmul_precision(), list(precisions_before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        precisions_before[:] = saved


# The library: a function that selects it for this process and returns whether that was possible.
PRODUCTS: dict[str, Callable[[], bool]] = {"default": default_float32, "onednn": onednn_float32}


def precisions() -> dict[str, str]:
    """{library: torch's setting that selects it}, for the libraries that keep the precision of float32."""
    with restored_float32():
        return {name: torch.get_float32_matmul_precision() for name in PRODUCTS if PRODUCTS[name]()}


# bfloat16


def linear_step(
    rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float32
) -> Callable[[str], None]:
    """A function that computes a linear layer forward and backward, with products in `dtype`.

    Its argument is torch's setting for float32 products.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=random, requires_grad=True)
    weight = torch.randn(columns, inner, generator=random, requires_grad=True)
    gradient = torch.ones(rows, columns, dtype=dtype)

    def step(precision: str) -> None:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = F.linear(x, weight)
        torch.autograd.grad(y, (x, weight), gradient)

    return step


def bf16_speed() -> float:
    """How many times as fast this CPU computes linear layers in bfloat16 as in float32, measured.

    float32 is computed by the library that is faster. As in training, autocast rounds the weights.
    """
    shape = ROWS, INNER, COLUMNS
    float32, bf16 = linear_step(*shape), linear_step(*shape, torch.bfloat16)
    steps = {name: partial(float32, precision) for name, precision in precisions().items()}
    with restored_float32():
        seconds = shortest_seconds({**steps, "bf16": partial(bf16, "highest")}, MAX_SECONDS)
    return min(seconds[name] for name in steps) / seconds["bf16"]
