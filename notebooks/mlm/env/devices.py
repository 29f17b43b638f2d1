"""Arguments of `pytorch_lightning.Trainer` for the devices that are wanted and available. Taught in 01."""

import re

import torch
from pytorch_lightning.strategies import StrategyRegistry, XLAStrategy

from mlm.env.hardware import Machine
from mlm.env.notebook import NotebookError


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
