"""Arguments of `pytorch_lightning.Trainer` for the devices that are wanted and available. Taught in 01."""

import re
from typing import Any

import torch

from mlm.env.hardware import Card, Machine
from mlm.env.notebook import NotebookError

MIN_BF16_SPEED = 1.1  # below, a CPU trains in float32, which is more precise
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}

# which devices


def counted(number: int, name: str) -> str:
    """A number with its noun: "1 GPU", "2 GPUs"."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def tpu_devices(tpu_cores: int | str | list, machine: Machine) -> int | list[int]:
    """The `devices` of a Trainer on a TPU: a number of cores, or [k]. Raises NotebookError."""
    number, num_cores = int(re.findall(r"-?\d+", str(tpu_cores))[0]), machine.tpu_cores
    by_index = "[" in str(tpu_cores)
    if not machine.torch_xla:
        raise NotebookError(
            f"tpu_cores={tpu_cores}: torch_xla is not installed; run setup_tpu.sh on a TPU machine, "
            "or pass tpu_cores=0"
        )
    if not num_cores or number not in (range(num_cores) if by_index else (-1, 1, num_cores)):
        many = f"0, 1, {num_cores} (all) or [k] with k from 0 to {num_cores - 1}"
        valid = {0: "0 (no TPU)", 1: "0, 1 or [0]"}.get(num_cores, many)
        raise NotebookError(
            f"tpu_cores={tpu_cores}: this machine has {counted(num_cores, 'TPU core')}; pass {valid}; "
            "Colab's TPU (v5e-1) has 1, Kaggle's (v5e-8) has 8"
        )
    devices = [number] if by_index else num_cores if number == -1 else number
    if machine.xla_is_used and devices not in (1, [number]):
        raise NotebookError(
            f"tpu_cores={tpu_cores}: this kernel has used the TPU already, so it cannot start "
            "several processes; restart the kernel and run the notebook from the top"
        )
    return devices


def choose_devices(
    gpus: int | None, tpu_cores: int | str | list | None, cpu_processes: int, machine: Machine
) -> tuple[str, int | list[int]]:
    """(kind, devices): what the parameters ask for, else TPU cores, else GPUs, else the CPU.

    Raises NotebookError if the machine does not have it.
    """
    num_gpus = machine.gpus if gpus != 0 else 0
    wants_tpu = tpu_cores not in (None, 0, "0")
    wants_nothing = tpu_cores is None and not gpus and cpu_processes == 1
    num_cores = machine.tpu_cores if wants_tpu or wants_nothing else 0
    if gpus and (gpus > num_gpus or not num_gpus):
        raise NotebookError(
            f"gpus={gpus}: torch {torch.__version__} finds {counted(num_gpus, 'GPU')} here; pass gpus={num_gpus}"
            + (" or fewer" if num_gpus else " (the CPU), or in Colab choose a GPU runtime")
            + ("; a Mac's GPU (MPS) is not supported" if machine.mps else "")
        )
    if wants_tpu or num_cores:
        return "tpu", tpu_devices(-1 if tpu_cores is None else tpu_cores, machine)
    if num_gpus and cpu_processes == 1:
        return "gpu", num_gpus if gpus in (None, -1) else gpus
    return "cpu", cpu_processes


def check_cards(cards: list[Card]) -> None:
    """Raise NotebookError if a GPU that is to be used cannot compute.

    One that is busy or full is not refused: this kernel may be using it, or another rank may be checking it.
    """
    occupied = re.compile("busy|out of memory")
    for number, card in enumerate(cards):
        if "no kernel image" in card.failure:
            wanted = "sm_{}{}".format(*card.capability)
            raise NotebookError(
                f"GPU {number}: torch {torch.__version__} has no kernels for the {card.name} ({wanted}): "
                "choose another GPU (Kaggle: GPU T4 x2), install a torch that was built for CUDA 12.6, "
                "or pass gpus=0 (the CPU)"
            )
        if card.failure and not occupied.search(card.failure):
            raise NotebookError(
                f"GPU {number}, the {card.name}, cannot compute ({card.failure}): end other programs that "
                "use it, restart the runtime, or pass gpus=0 (the CPU)"
            )


# which precision


def gpu_dtype(card: Card) -> tuple[torch.dtype, str]:
    """(dtype, reason): the fastest dtype of a GPU: bfloat16, float16 or float32.

    Tensor cores multiply float16 since capability 7.0 and bfloat16 since 8.0. Without them, a P100
    (6.0) still moves half the bytes; others before 7.0 compute float16 much more slowly than float32.
    """
    number = "{}.{}".format(*card.capability)
    if card.capability >= (8, 0):
        return torch.bfloat16, f"the {card.name}'s tensor cores multiply it"
    if card.capability >= (7, 0) or card.capability == (6, 0):
        return (
            torch.float16,
            f"the {card.name} (capability {number}) has no bfloat16; losses are scaled",
        )
    return torch.float32, f"the {card.name} (capability {number}) is slow in 16 bits"


def cpu_dtype(machine: Machine) -> tuple[torch.dtype, str]:
    """(dtype, reason): bfloat16 if this CPU has it in hardware and computes clearly faster with it.

    That must be measured: some CPUs with bfloat16 are four times as fast in it, others half as fast.
    """
    if not machine.bf16:
        return torch.float32, "this CPU has no bfloat16 in hardware"
    if machine.started_by_launcher:
        why = "processes of a launcher cannot agree on a measurement; pass precision to choose"
        return torch.float32, why
    speed = machine.bf16_speed
    faster, slower = ("bfloat16", "float32") if speed > 1 else ("float32", "bfloat16")
    ratio = max(speed, 1 / speed)
    reason = f"measured: {faster} is {ratio:.1f} times as fast as {slower} on this CPU"
    return (torch.bfloat16 if speed > MIN_BF16_SPEED else torch.float32), reason


def choose_dtype(precision: int | str, kind: str, machine: Machine) -> tuple[torch.dtype, str]:
    """(dtype, reason) of matrix products. Raises NotebookError if the device does not support it."""
    if str(precision) == "16" and kind != "gpu":
        raise NotebookError(
            f'precision="16" needs a GPU, and the device is a {kind.upper()}; pass "auto" or "32"'
        )
    if str(precision) == "bf16" and kind == "gpu" and machine.card.capability < (8, 0):
        raise NotebookError(
            f'precision="bf16": the {machine.card.name} has no bfloat16; pass "16" or "32"'
        )
    if str(precision) != "auto":
        return DTYPES[str(precision)], "as set by precision"
    if kind == "gpu":
        return gpu_dtype(machine.card)
    if kind == "tpu":
        return torch.bfloat16, "the TPU multiplies it in hardware"
    return cpu_dtype(machine)


# how processes are started


def check_fork(kind: str, processes: int, machine: Machine) -> None:
    """Raise NotebookError if this kernel cannot be forked into several processes on GPUs.

    CUDA does not work in a fork of a process that has used it, and Lightning 2.6.6 does not notice.
    """
    if kind == "gpu" and processes > 1 and machine.cuda_is_used and not machine.started_by_launcher:
        raise NotebookError(
            f"this kernel has used a GPU already, so it cannot start {processes} processes on GPUs; "
            "restart the kernel and run the notebook from the top, or pass gpus=1"
        )


def choose_strategy(
    kind: str, processes: int, num_nodes: int, machine: Machine, compile: bool | str = "auto"
) -> str:
    """The name of Lightning's strategy, its own or one of mlm.training.strategies.

    Several processes share the work by DDP: each has the whole model. Raises NotebookError if processes
    cannot be started so.
    """
    launched = machine.started_by_launcher
    check_fork(kind, processes, machine)
    if num_nodes > 1 and not launched:
        raise NotebookError(
            f"num_nodes={num_nodes}: a notebook cannot start other machines; start it on each machine "
            "with torchrun or SLURM (see docs/gpus.md)"
        )
    if kind == "tpu" and processes > 1:
        return "tpu_cores"
    if processes > 1 and not launched and not machine.forks:
        raise NotebookError(
            f"cpu_processes={processes}: macOS cannot fork a notebook that has computed; pass 1, or start "
            "the processes with torchrun (see docs/gpus.md)"
        )
    if processes * num_nodes > 1:
        return "ddp" if launched else "ddp_notebook"  # ddp_notebook forks this kernel
    if kind == "gpu" and compile is not False:
        return "cuda_graph"
    return "auto"


def trainer_arguments(
    gpus: int | None = None,
    tpu_cores: int | str | list | None = None,
    cpu_processes: int = 1,
    num_nodes: int = 1,
    precision: int | str = "auto",
    compile: bool | str = "auto",
    machine: Machine | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of `Trainer`, device) for the parameters of 01 and 04 on a machine (None: this one).

    None means all there are: TPU cores, else GPUs, else the CPU. `device` has kind ("cpu", "gpu" or
    "tpu"), card (of a GPU, else None), processes (on this machine), dtype (of matrix products) and why
    (that dtype). Raises NotebookError if the machine lacks the hardware that is set.
    """
    machine = machine or Machine()
    if machine.mps:
        print(
            "This Mac's GPU (MPS) is not used, but its CPU: nothing was ever run on MPS, and resuming bit "
            "by bit needs operations that are deterministic there"
        )
    kind, devices = choose_devices(gpus, tpu_cores, cpu_processes, machine)
    processes = devices if isinstance(devices, int) else 1
    card = None
    if kind == "gpu":
        check_cards(machine.cards[:processes])
        card = machine.card
    dtype, why = choose_dtype(precision, kind, machine)
    arguments = {
        "accelerator": kind,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": choose_strategy(kind, processes, num_nodes, machine, compile),
        "precision": "16-mixed" if dtype == torch.float16 else "32-true",
    }
    device = {"kind": kind, "card": card, "processes": processes, "dtype": dtype, "why": why}
    return arguments, device
