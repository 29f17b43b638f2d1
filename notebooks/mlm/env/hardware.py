"""Which CPUs, GPUs and TPU cores this machine has. Taught in 01.

Nothing here starts XLA or CUDA in the calling process: once either runs there, no further processes
can be started on its devices.
"""

import functools
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mlm.env.notebook import NotebookError, started_by_launcher
from mlm.env.products import bf16_speed


class Card(NamedTuple):
    """A GPU card."""

    name: str
    memory: float  # bytes
    capability: tuple[int, int]  # CUDA compute capability, https://developer.nvidia.com/cuda-gpus
    failure: str = ""  # what torch says if the card cannot compute


def as_card(row: Sequence) -> Card:
    """A Card from (name, memory, capability[, failure]), whose tuples JSON has turned into lists."""
    name, memory, capability, *failure = row
    return Card(name, memory, tuple(capability), *failure)


A100 = Card("A100", 40e9, (8, 0))

# in a subprocess


def run_in_subprocess(function: Callable, *values: Any, seconds: float = 300) -> Any:
    """`function(*values)`, computed by a new Python process that releases the devices when it ends.

    The source of the function is sent, so it must import what it needs; what it returns must be JSON.
    Raises NotebookError if it fails or does not end within `seconds`.
    """
    call = f"import json\nprint(json.dumps({function.__name__}(*{values!r})))"
    program = [sys.executable, "-c", f"{inspect.getsource(function)}\n{call}"]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NotebookError(
            f"the device did not answer within {seconds} s: end the process that uses it, or "
            "restart the runtime"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NotebookError(f"the device does not work: {last}; restart the runtime")
    return json.loads(done.stdout.splitlines()[-1])


def list_gpus() -> list[tuple[str, int, tuple[int, int], str]]:
    """(name, bytes of memory, compute capability, failure) of each GPU. Starts CUDA.

    Each card computes one sum, because torch may list a card for which it has no kernels. `failure` is
    what torch says then, in one line; "" if the sum is right.
    """
    import torch

    def failure(number: int) -> str:
        try:
            total = torch.ones(8, device=f"cuda:{number}").add(1).sum().item()
        except RuntimeError as error:
            return str(error).partition("\n")[0]
        return "" if total == 16 else f"8 x 2 = {total}"

    cards = enumerate(map(torch.cuda.get_device_properties, range(torch.cuda.device_count())))
    return [(c.name, c.total_memory, (c.major, c.minor), failure(number)) for number, c in cards]


# this machine


def count_tpu_cores() -> int:
    """The number of TPU cores of this machine, found without starting the TPU runtime.

    Raises NotebookError if torch_xla is installed but cannot work.
    """
    if importlib.util.find_spec("torch_xla") is None:
        return 0
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torch_xla")}
    if len({tuple(re.findall(r"\d+", number)[:2]) for number in versions.values()}) > 1:
        raise NotebookError(
            f"torch {versions['torch']} and torch_xla {versions['torch_xla']} do not match: install the "
            "same minor version of both (setup_tpu.sh does) and restart the kernel"
        )
    if os.environ.get("TPU_PROCESS_ADDRESSES") == "local":
        del os.environ["TPU_PROCESS_ADDRESSES"]  # set by Kaggle; no 8 processes start with it
    from torch_xla._internal import tpu

    try:
        return tpu.num_available_devices()
    except Exception as error:  # torch_xla needs the metadata server, which only TPU machines have
        if not tpu.num_available_chips():
            return 0
        raise NotebookError(
            f"this machine's TPU cores cannot be counted ({type(error).__name__}); if the metadata "
            "server is unreachable, set TPU_SKIP_MDS_QUERY=1 and TPU_ACCELERATOR_TYPE="
            "v5litepod-1 (your type); to train without the TPU, pass tpu_cores=0"
        ) from None


class Machine:
    """This machine. Each property is looked up when it is read: some take seconds."""

    @property
    def gpus(self) -> int:
        """The number of GPUs that torch finds."""
        return torch.cuda.device_count()

    @functools.cached_property
    def tpu_cores(self) -> int:
        """The number of TPU cores; raises NotebookError if they cannot be counted."""
        return count_tpu_cores()

    @functools.cached_property
    def cards(self) -> list[Card]:
        """The GPUs; each has tried to compute."""
        return list(map(as_card, run_in_subprocess(list_gpus)))

    @property
    def card(self) -> Card:
        """The first GPU."""
        return self.cards[0]

    @property
    def mps(self) -> bool:
        """Whether this is a Mac with a GPU that torch can use."""
        return torch.backends.mps.is_available()

    @property
    def forks(self) -> bool:
        """Whether processes that have computed can be forked; macOS's own libraries crash then."""
        return sys.platform != "darwin"

    @property
    def cuda_is_used(self) -> bool:
        """Whether this process has started CUDA."""
        return torch.cuda.is_initialized()

    @property
    def torch_xla(self) -> bool:
        """Whether torch_xla is installed."""
        return importlib.util.find_spec("torch_xla") is not None

    @property
    def xla_is_used(self) -> bool:
        """Whether this process has started the XLA runtime: then it cannot start others on a TPU."""
        xla = sys.modules.get("torch_xla")
        return bool(xla and xla._XLAC._xla_runtime_is_initialized())

    @property
    def started_by_launcher(self) -> bool:
        """Whether torchrun or SLURM started this process as one of several."""
        return started_by_launcher()

    @property
    def bf16(self) -> bool:
        """Whether the CPU multiplies bfloat16 in hardware; without, float32 is faster."""
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in checks)

    @functools.cached_property
    def bf16_speed(self) -> float:
        """How many times as fast the CPU computes in bfloat16 as in float32, measured in 0.3 s."""
        return bf16_speed()


@dataclass
class SimulatedMachine(Machine):
    """A machine with given properties, to see what `Machine` would lead to elsewhere."""

    gpus: int = 0
    tpu_cores: int = 0
    torch_xla: bool = True
    xla_is_used: bool = False
    cuda_is_used: bool = False
    started_by_launcher: bool = False
    bf16: bool = True
    mps: bool = False
    forks: bool = True
    bf16_speed: float = 2.0
    card: Card = A100

    def __post_init__(self) -> None:
        self.card = as_card(self.card)
        self.cards = [self.card] * self.gpus


TPU_GB = {  # GB of memory of a core, by the type in TPU_ACCELERATOR_TYPE
    "v2": 8,
    "v3": 16,
    "v4": 32,
    "v5e": 16,
    "v5litepod": 16,
    "v5p": 95,
    "v6e": 32,
}
