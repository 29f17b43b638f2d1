"""Errors whose cause is known become one line that says what to pass instead."""

import numpy as np
import pytest
import torch

from helpers import refused
from mlm.env.hardware import Card
from mlm.env.notebook import NotebookError
from mlm.training.causes import explain, explained_errors

SETTINGS = dict(
    batch_size=4096, accumulate=2, model="bert-base-uncased", max_len=128, device="gpu",
    dtype="torch.bfloat16",
)  # fmt: skip
H100 = Card("H100", 80e9, (9, 0)), "the H100 has 80.0 GB"
OUT_OF_MEMORY = [  # as torch, NumPy and XLA word it
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 12.00 GiB. GPU 0 has a total ..."
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, max allowed: 18.13 GB)."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4096000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in hbm."),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


def wrapped(error):
    """The error as the cause of another one."""
    try:
        raise RuntimeError("backend='inductor' raised an error") from error
    except RuntimeError as outer:
        return outer


@pytest.fixture
def on_h100(monkeypatch):
    monkeypatch.setattr("mlm.training.causes.available_memory", lambda *_: H100)


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, wrapped(OUT_OF_MEMORY[0])])
def test_too_little_memory_is_one_line_that_says_what_would_fit(on_h100, error):
    line = str(explain(error, SETTINGS))
    assert line == (
        "batch_size=4096, accumulate=2: out of memory (the H100 has 80.0 GB); pass batch_size=256, "
        "accumulate=32 for the same step (estimated to fit)"
    )


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), NotebookError("a line"), OSError(28, "full")]
)
def test_other_errors_stay_as_they_are(error):
    assert explain(error, SETTINGS) is None
    with pytest.raises(type(error)) as caught, explained_errors(SETTINGS):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("batch_size", [2, 3, 7, 64, 100])
@pytest.mark.parametrize("accumulate", [None, 1, 3])
def test_the_advice_is_smaller_and_loses_no_example(on_h100, batch_size, accumulate):
    settings = SETTINGS | {"batch_size": batch_size, "accumulate": accumulate}
    if accumulate is None:  # as in 06, which has no such parameter
        del settings["accumulate"]
    advice = str(explain(MemoryError(), settings)).split(";")[1]
    values = dict(part.split("=") for part in advice.replace(",", "").split() if "=" in part)
    assert 1 <= int(values["batch_size"]) < batch_size
    assert ("accumulate" in values) == bool(accumulate)
    if accumulate:
        examples = int(values["batch_size"]) * int(values["accumulate"])
        assert batch_size * accumulate <= examples < batch_size * (accumulate + 1)


def test_a_single_example_that_does_not_fit_is_too_long_or_its_model_too_large(on_h100):
    assert "max_len" in str(explain(MemoryError(), SETTINGS | {"batch_size": 1}))


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_a_real_allocation_that_fails_and_its_memory_is_free_afterwards(allocate):
    freed = []

    class Tensor:
        def __del__(self):
            freed.append(True)

    def step():
        tensor = Tensor()
        allocate((1 << 50,))
        return tensor

    advice = refused("batch_size=4096", "this computer has", "pass batch_size=")
    with advice, explained_errors(SETTINGS):
        step()
    assert freed
