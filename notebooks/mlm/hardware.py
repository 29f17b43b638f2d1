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
from pytorch_lightning.strategies import StrategyRegistry, XLAStrategy

from .notebook import NotebookError, launched

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
        return launched()

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
    launched: bool = False
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


class TpuCores(XLAStrategy):
    """Lightning's strategy for several TPU cores, without its detours over the host.

    The processes are forks of one notebook: weights and names are the same in all from the start.
    """

    def __init__(self, **kwargs):
        super().__init__(sync_module_states=False, **kwargs)

    def barrier(self, name=None, *args, **kwargs):
        """Wait for all: none can know the sum before each has added its number."""
        if self._launched:
            import torch_xla.core.xla_model as xm

            xm.all_reduce(xm.REDUCE_SUM, torch.zeros(4).to(self.root_device)).cpu()

    def broadcast(self, obj, src=0):
        """All have it already."""
        return obj


# A name, so that the arguments of Trainer are plain values; again after an edit, hence override.
StrategyRegistry.register("tpu_cores", TpuCores, override=True)


def tpu_devices(tpu_cores, machine):
    """`devices` of a TPU Trainer: how many, or [k]. Raises NotebookError if it is not there."""
    asked, here = int(re.search(r"-?\d+", str(tpu_cores)).group()), machine.tpu_cores
    one = "[" in str(tpu_cores)
    if not machine.torch_xla:
        raise NotebookError(
            f"tpu_cores={tpu_cores}: torch_xla is not installed; run setup_tpu.sh on a TPU machine, "
            "or pass tpu_cores=0"
        )
    if not here or (one and asked >= here) or (not one and asked not in (-1, 1, here)):
        below = f" or [k] with k from 0 to {here - 1}" if here > 1 else " or [0]"
        many = f", {here} (all)" if here > 1 else ""
        raise NotebookError(
            f"tpu_cores={tpu_cores}: this machine has {here} TPU cores; pass 0"
            + (f", 1{many}{below}" if here else " (no TPU)")
            + "; today Colab's TPU (v5e-1) has 1, Kaggle's (v5e-8) has 8"
        )
    devices = [asked] if one else here if asked == -1 else asked
    if machine.xla_is_used and devices not in (1, [asked]):
        raise NotebookError(
            f"tpu_cores={tpu_cores}: this kernel has used the TPU already, so it cannot start "
            "several processes; restart the kernel and run the notebook from the top"
        )
    return devices


def choose_devices(gpus, tpu_cores, cpu_processes, machine):
    """(kind, devices): TPU cores, else GPUs, else the CPU, unless something else is asked for."""
    cards = machine.gpus if gpus != 0 else 0
    tpu = tpu_cores not in (None, 0, "0")
    free = tpu_cores is None and not gpus and cpu_processes == 1  # nothing else was asked for
    cores = machine.tpu_cores if tpu or free else 0
    if gpus and (gpus > cards or not cards):
        raise NotebookError(
            f"gpus={gpus}: torch {torch.__version__} finds {cards} GPUs here; pass gpus={cards}"
            + (" (the CPU), or in Colab choose a GPU runtime" if not cards else " or fewer")
        )
    if tpu or cores:
        return "tpu", tpu_devices(-1 if tpu_cores is None else tpu_cores, machine)
    if cards and cpu_processes == 1:
        return "gpu", cards if gpus in (None, -1) else gpus
    return "cpu", cpu_processes


def card_dtype(name, capability):
    """(dtype, why) that suits a CUDA card of this capability: bfloat16, float16 or float32.

    Tensor cores multiply float16 since 7.0, bfloat16 since 8.0. Without them a P100 (6.0) still moves
    half the bytes; others before 7.0 compute float16 at a fraction of float32's speed, if at all.
    """
    number, capability = "{}.{}".format(*capability), tuple(capability)
    if capability >= (8, 0):
        return torch.bfloat16, f"the {name}'s tensor cores multiply it"
    if capability >= (7, 0) or capability == (6, 0):
        return torch.float16, f"the {name} (capability {number}) has no bfloat16; losses are scaled"
    return torch.float32, f"the {name} (capability {number}) is slow in 16 bits"


def choose_dtype(precision, kind, machine):
    """(dtype, why): the torch dtype that matrix products run in."""
    asked = str(precision)
    if asked == "16" and kind != "gpu":
        raise NotebookError(
            f'precision="16" needs a GPU, and this is a {kind}; pass "auto" or "32"'
        )
    if asked == "bf16" and kind == "gpu" and machine.card[2][0] < 8:
        raise NotebookError('precision="bf16": this GPU has no bfloat16; pass "16" or "32"')
    if asked != "auto":
        dtypes = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
        return dtypes[asked], "as asked"
    if kind == "gpu":
        return card_dtype(machine.card[0], machine.card[2])
    if kind == "tpu" or machine.bf16:
        return torch.bfloat16, f"the {kind.upper()} multiplies it in hardware"
    return torch.float32, "this CPU has no bfloat16 in hardware"


def choose_strategy(strategy, kind, processes, num_nodes, machine):
    """Lightning's strategy, by its name."""
    if strategy == "fsdp" and (kind != "gpu" or not machine.launched):
        raise NotebookError(
            'strategy="fsdp" needs GPUs and a start by torchrun or SLURM (see the README); '
            'a notebook by itself can do "auto"'
        )
    if num_nodes > 1 and not machine.launched:
        raise NotebookError(
            f"num_nodes={num_nodes}: a notebook starts no other machines; start it on each with "
            "torchrun or SLURM (see the README)"
        )
    if kind == "tpu" and processes > 1:
        return "tpu_cores"
    if strategy != "fsdp" and processes * num_nodes > 1:
        return "ddp" if machine.launched else "ddp_notebook"  # ddp_notebook forks this kernel
    return strategy


def trainer_arguments(
    gpus=None, tpu_cores=None, cpu_processes=1, num_nodes=1, precision="auto", strategy="auto",
    machine=None,
):  # fmt: skip
    """Where to train, as arguments of `pytorch_lightning.Trainer`, from what is asked and there.

    None asks for all there are: TPU cores, else GPUs, else the CPU. `machine` is a Machine (this
    one if None) or a Pretended. Returns (arguments, device): device is a dict of kind ("cpu",
    "gpu", "tpu"), card (a Machine's, of GPUs), processes (on this machine), dtype (what matrix products
    run in: a torch dtype) and why (that one).
    Raises NotebookError when something is asked for that is not there.
    """
    machine = machine or Machine()
    kind, devices = choose_devices(gpus, tpu_cores, cpu_processes, machine)
    dtype, why = choose_dtype(precision, kind, machine)
    processes = devices if isinstance(devices, int) else 1
    arguments = dict(
        accelerator=kind,
        devices=devices,
        num_nodes=num_nodes,
        strategy=choose_strategy(strategy, kind, processes, num_nodes, machine),
        precision="16-mixed" if dtype == torch.float16 else "32-true",
    )
    card = machine.card if kind == "gpu" else None
    return arguments, dict(kind=kind, card=card, processes=processes, dtype=dtype, why=why)
