"""What this machine has, and what is asked of it, as arguments of `pytorch_lightning.Trainer`.

Nothing here starts XLA or CUDA in the process that asks: where either runs, no further processes
can be started on its devices. Taught in 01.
"""

import functools
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass

import torch

from mlm.env.notebook import NotebookError, started_by_launcher

# what is here


def tpu_cores_here():
    """How many TPU cores this machine has, found without starting the TPU runtime.

    Raises NotebookError where torch_xla is there but cannot work.
    """
    if importlib.util.find_spec("torch_xla") is None:
        return 0
    found = {name: importlib.metadata.version(name) for name in ("torch", "torch_xla")}
    if len({tuple(re.findall(r"\d+", number)[:2]) for number in found.values()}) > 1:
        raise NotebookError(
            f"torch {found['torch']} and torch_xla {found['torch_xla']} do not belong together: "
            "install a pair of one minor version (setup_tpu.sh does) and restart the kernel"
        )
    if os.environ.get("TPU_PROCESS_ADDRESSES") == "local":
        del os.environ["TPU_PROCESS_ADDRESSES"]  # Kaggle's: it breaks the start of 8 processes
    from torch_xla._internal import tpu

    try:
        return tpu.num_available_devices()
    except Exception as error:  # it asks the metadata server, which only TPU machines have
        if not tpu.num_available_chips():
            return 0
        raise NotebookError(
            f"this machine's TPU cannot be counted ({type(error).__name__}); where its metadata "
            "server cannot be reached, set TPU_SKIP_MDS_QUERY=1 and TPU_ACCELERATOR_TYPE="
            "v5litepod-1 (your type); to train without it, pass tpu_cores=0"
        ) from None


def xla_is_used():
    """Whether this process has started the XLA runtime: then it can start no others on a TPU."""
    xla = sys.modules.get("torch_xla")
    return bool(xla and xla._XLAC._xla_runtime_is_initialized())


class Machine:
    """This machine. Each answer is found when it is asked for: some take seconds."""

    @property
    def gpus(self):
        """How many GPUs torch finds."""
        return torch.cuda.device_count()

    @functools.cached_property
    def tpu_cores(self):
        """How many TPU cores there are; raises NotebookError where they cannot be counted."""
        return tpu_cores_here()

    @functools.cached_property
    def card(self):
        """(name, bytes of memory, capability) of the first GPU, as `gpu_cards` has them."""
        return in_own_process(gpu_cards)[0]

    @property
    def torch_xla(self):
        """Whether torch_xla is installed."""
        return importlib.util.find_spec("torch_xla") is not None

    @property
    def xla_is_used(self):
        """Whether this process has started the XLA runtime."""
        return xla_is_used()

    @property
    def launched(self):
        """Whether torchrun or SLURM started this process as one of several."""
        return started_by_launcher()

    @property
    def bf16(self):
        """Whether its CPU multiplies bfloat16 in hardware; without, float32 is faster."""
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


@dataclass
class Pretended:
    """A machine that one would like to ask about, with the answers of a `Machine`."""

    gpus: int = 0
    tpu_cores: int = 0
    torch_xla: bool = True
    xla_is_used: bool = False
    started_by_launcher: bool = False
    bf16: bool = True
    card: tuple = ("A100", 40e9, (8, 0))


# a look at it


def in_own_process(function, *values, seconds=300):
    """`function(*values)` computed by a fresh Python, which ends and lets go of the devices.

    The function is sent as text, so it imports what it needs; what it returns must be JSON.
    Raises NotebookError where it fails or does not end within `seconds`.
    """
    call = f"import json\nprint(json.dumps({function.__name__}(*{values!r})))"
    program = [sys.executable, "-c", f"{inspect.getsource(function)}\n{call}"]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NotebookError(
            f"the device did not answer within {seconds} s: end the process that holds it, or "
            "restart the runtime"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NotebookError(f"the device does not work: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def gpu_cards():
    """(name, bytes, capability: https://developer.nvidia.com/cuda-gpus) of each GPU; starts CUDA."""
    import torch

    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [(card.name, card.total_memory, (card.major, card.minor)) for card in cards]


# GB of memory of a core, by the type that the environment names
TPU_GB = {"v2": 8, "v3": 16, "v4": 32, "v5e": 16, "v5litepod": 16, "v5p": 95, "v6e": 32}


def devices_here():
    """A row for each device of this machine: (device, what it is, memory, bfloat16)."""
    import psutil

    machine, bf16 = Machine(), {True: "in hardware", False: "emulated, slow"}
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    cpu = f"{os.cpu_count()} cores, {platform.machine()}"
    rows = [("CPU", cpu, memory, bf16[machine.bf16])]
    for number, card in enumerate(in_own_process(gpu_cards) if machine.gpus else ()):
        name, size, (major, _) = card
        rows.append((f"GPU {number}", name, f"{size / 1e9:.0f} GB", bf16[major >= 8]))
    for number in range(machine.tpu_cores):
        name = os.environ.get("TPU_ACCELERATOR_TYPE", "").split("-")[0]
        memory = f"{TPU_GB[name]} GB" if name in TPU_GB else "known once the runtime starts"
        rows.append((f"TPU core {number}", name, memory, bf16[True]))
    return rows


# what to ask of it
