"""The arguments of Trainer for each machine and each wish, and what is refused."""

import os
import sys
from importlib.metadata import version

import pytest
import torch

import mlm.env.devices as devices
import mlm.env.hardware as hardware
from helpers import refused
from mlm.env.hardware import SimulatedMachine

bf16, f32, f16 = torch.bfloat16, torch.float32, torch.float16
A100, T4 = ("A100", 40e9, [8, 0]), ("Tesla T4", 16e9, [7, 5])


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that gives this machine other GPUs and TPU cores, with a fake torch_xla."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_xla"]:
        monkeypatch.delitem(sys.modules, name)

    def use_cuda(*_):
        raise AssertionError("CUDA was initialized in the notebook's process")

    for name in ("_lazy_init", "get_device_capability", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, use_cuda)

    def make(
        gpus=0, cores=None, bf16=True, bf16_speed=2.0, card=A100, xla=None, counts="return {cores}", chips=1,
        used=False,
    ):  # fmt: skip
        """`cores` None: no torch_xla; `xla`: its version; `counts`: how it counts; `used`: it has run."""
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(hardware.Machine, "bf16", bf16)
        monkeypatch.setattr(hardware.Machine, "bf16_speed", bf16_speed)
        monkeypatch.setattr(hardware, "run_in_subprocess", lambda function: [card] * gpus)
        if cores is not None:
            xla = xla or torch.__version__.partition("+")[0]
            internal = tmp_path / "torch_xla" / "_internal"
            internal.mkdir(parents=True)
            state = "class _XLAC:\n    _xla_runtime_is_initialized = staticmethod(lambda: {})\n"
            (tmp_path / "torch_xla" / "__init__.py").write_text(state.format(used))
            (internal / "__init__.py").touch()
            (internal / "tpu.py").write_text(
                f"def num_available_devices():\n    {counts.format(cores=cores)}\n"
                f"def num_available_chips():\n    return {chips}\n"
            )
            (tmp_path / f"torch_xla-{xla}.dist-info").mkdir()
            metadata = tmp_path / f"torch_xla-{xla}.dist-info" / "METADATA"
            metadata.write_text(f"Metadata-Version: 2.1\nName: torch_xla\nVersion: {xla}\n")
            monkeypatch.syspath_prepend(tmp_path)

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_xla"]:
        del sys.modules[name]


def simulated(gpus=0, cores=None, **options):
    """A SimulatedMachine with what `machine` gives this machine."""
    return SimulatedMachine(gpus, cores or 0, torch_xla=cores is not None, **options)


def summary(arguments, device):
    """(accelerator, devices, strategy, precision, dtype) of what trainer_arguments returned."""
    assert arguments.keys() == {"accelerator", "devices", "num_nodes", "strategy", "precision"}
    assert device["kind"] == arguments["accelerator"]
    devices = arguments["devices"]
    assert device["processes"] == (devices if isinstance(devices, int) else len(devices))
    names = ("accelerator", "devices", "strategy", "precision")
    return *(arguments[name] for name in names), device["dtype"]


# what fits the machine

NOTHING, ONE_GPU, TWO_GPUS = {}, {"gpus": 1}, {"gpus": 2}
OLD_GPU, OLD_CPU = {"gpus": 1, "card": T4}, {"bf16": False}
SLOW_BF16 = {"bf16_speed": 0.5}  # a CPU with bfloat16 that computes faster in float32
ONE_CORE, EIGHT_CORES = {"cores": 1}, {"cores": 8}
P100 = (
    "Tesla P100",
    16e9,
    [6, 0],
    "CUDA error: no kernel image is available for execution on the device",
)
OLD_TORCH = {"gpus": 2, "card": P100}  # it has no kernels for this card
BROKEN_GPU = {"gpus": 1, "card": (*A100, "CUDA error: ECC")}
NO_CORES = {"cores": 0}  # torch_xla is installed, but there is no TPU


@pytest.mark.parametrize(
    "hardware, parameters, expected",
    [
        # nothing is set: the best device
        (NOTHING, {}, ("cpu", 1, "auto", "32-true", bf16)),
        (OLD_CPU, {}, ("cpu", 1, "auto", "32-true", f32)),
        (ONE_GPU, {}, ("gpu", 1, "cuda_graph", "32-true", bf16)),
        (OLD_GPU, {}, ("gpu", 1, "cuda_graph", "16-mixed", f16)),
        (TWO_GPUS, {}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (ONE_CORE, {}, ("tpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (NO_CORES, {}, ("cpu", 1, "auto", "32-true", bf16)),
        (ONE_GPU | NO_CORES, {}, ("gpu", 1, "cuda_graph", "32-true", bf16)),
        # the CPU
        (TWO_GPUS, {"gpus": 0}, ("cpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 0}, ("cpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "0"}, ("cpu", 1, "auto", "32-true", bf16)),
        (NOTHING, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        (EIGHT_CORES, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        # GPUs
        (TWO_GPUS, {"gpus": 1}, ("gpu", 1, "cuda_graph", "32-true", bf16)),
        (TWO_GPUS, {"gpus": 1, "compile": False}, ("gpu", 1, "auto", "32-true", bf16)),
        (TWO_GPUS, {"gpus": 2}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS, {"gpus": -1}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS | EIGHT_CORES, {"gpus": 2}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        # TPU cores
        (ONE_CORE, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        (ONE_CORE, {"tpu_cores": -1}, ("tpu", 1, "auto", "32-true", bf16)),
        (ONE_CORE, {"tpu_cores": [0]}, ("tpu", [0], "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 8}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "8"}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": -1}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "-1"}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": [7]}, ("tpu", [7], "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "[5]"}, ("tpu", [5], "auto", "32-true", bf16)),
        (ONE_GPU | ONE_CORE, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        # precision
        (NOTHING, {"precision": "32"}, ("cpu", 1, "auto", "32-true", f32)),
        (NOTHING, {"precision": 32}, ("cpu", 1, "auto", "32-true", f32)),
        (SLOW_BF16, {}, ("cpu", 1, "auto", "32-true", f32)),
        (SLOW_BF16, {"precision": "bf16"}, ("cpu", 1, "auto", "32-true", bf16)),
        (OLD_CPU, {"precision": "bf16"}, ("cpu", 1, "auto", "32-true", bf16)),
        (ONE_GPU, {"precision": "32"}, ("gpu", 1, "cuda_graph", "32-true", f32)),
        (ONE_GPU, {"precision": "bf16"}, ("gpu", 1, "cuda_graph", "32-true", bf16)),
        (OLD_GPU, {"precision": "16"}, ("gpu", 1, "cuda_graph", "16-mixed", f16)),
        (OLD_GPU, {"precision": 16}, ("gpu", 1, "cuda_graph", "16-mixed", f16)),
        (ONE_CORE, {"precision": "32"}, ("tpu", 1, "auto", "32-true", f32)),
    ],
)
def test_the_arguments_of_trainer(machine, hardware, parameters, expected):
    machine(**hardware)
    assert summary(*devices.trainer_arguments(**parameters)) == expected
    result = devices.trainer_arguments(**parameters, machine=simulated(**hardware))
    assert summary(*result) == expected


@pytest.mark.parametrize(
    "name, capability, dtype",
    [
        ("H100", (9, 0), bf16),
        ("A100", (8, 0), bf16),
        ("L4", (8, 9), bf16),
        ("Tesla T4", (7, 5), f16),
        ("Tesla V100", (7, 0), f16),
        ("Tesla P100", (6, 0), f16),
        ("GTX 1080", (6, 1), f32),
        ("Tesla K80", (3, 7), f32),
    ],
)
def test_each_gpu_gets_its_fastest_dtype(name, capability, dtype):
    machine = simulated(1, card=(name, 16e9, capability))
    arguments, device = devices.trainer_arguments(machine=machine)
    assert device["dtype"] == dtype and name in device["why"]
    assert device["card"] == (name, 16e9, capability, "")
    assert arguments["precision"] == ("16-mixed" if dtype == f16 else "32-true")
    device = devices.trainer_arguments(machine=machine, precision="32")[1]
    assert device["why"] == "as set by precision"


@pytest.mark.parametrize("launcher", ["TORCHELASTIC_RUN_ID", "SLURM_NTASKS"])
def test_a_launcher_starts_the_processes_of_several_machines(machine, monkeypatch, launcher):
    machine(gpus=2)
    monkeypatch.setenv(launcher, "6")
    for other in (None, simulated(gpus=2, started_by_launcher=True)):
        arguments, device = devices.trainer_arguments(num_nodes=3, machine=other)
        assert (arguments["num_nodes"], arguments["devices"]) == (3, 2)
        assert arguments["strategy"] == "ddp"
        assert device["processes"] == 2


def test_the_setting_of_kaggle_that_breaks_8_processes_is_removed(machine, monkeypatch):
    monkeypatch.setenv("TPU_PROCESS_ADDRESSES", "local")
    machine(cores=8)
    devices.trainer_arguments(tpu_cores=8)
    assert "TPU_PROCESS_ADDRESSES" not in os.environ


# what does not


@pytest.mark.parametrize(
    "hardware, parameters, words",
    [
        (NOTHING, {"gpus": 1}, ["gpus=1", "finds 0 GPUs", "pass gpus=0 (the CPU)", "GPU runtime"]),
        (NOTHING, {"gpus": -1}, ["gpus=-1", "finds 0 GPUs", "pass gpus=0"]),
        (TWO_GPUS, {"gpus": 3}, ["gpus=3", "finds 2 GPUs", "pass gpus=2 or fewer"]),
        (NOTHING, {"tpu_cores": 1}, ["tpu_cores=1", "torch_xla is not installed", "tpu_cores=0"]),
        (NOTHING, {"tpu_cores": [0]}, ["tpu_cores=[0]", "not installed", "setup_tpu.sh"]),
        (NO_CORES, {"tpu_cores": -1}, ["tpu_cores=-1", "has 0 TPU cores; pass 0 (no TPU)"]),
        (NO_CORES, {"tpu_cores": [0]}, ["tpu_cores=[0]", "has 0 TPU cores", "Colab", "Kaggle"]),
        (ONE_CORE, {"tpu_cores": 8}, ["has 1 TPU core;", "(v5e-1) has 1", "(v5e-8) has 8"]),
        (ONE_CORE, {"tpu_cores": [1]}, ["tpu_cores=[1]", "pass 0, 1 or [0]"]),
        (EIGHT_CORES, {"tpu_cores": 3}, ["has 8 TPU cores; pass 0, 1, 8 (all) or [k]"]),
        (EIGHT_CORES, {"tpu_cores": "[8]"}, ["tpu_cores=[8]", "k from 0 to 7"]),
        (EIGHT_CORES, {"tpu_cores": 16}, ["tpu_cores=16", "has 8 TPU cores"]),
        (NOTHING, {"precision": "16"}, ['precision="16" needs a GPU', "CPU", '"auto" or "32"']),
        (ONE_CORE, {"precision": 16}, ['precision="16" needs a GPU', "TPU"]),
        (OLD_GPU, {"precision": "bf16"}, ['"bf16"', "T4 has no bfloat16", '"16" or "32"']),
        (NOTHING, {"num_nodes": 2}, ["num_nodes=2", "torchrun or SLURM", "docs/gpus.md"]),
        (OLD_TORCH, {}, ["GPU 0", torch.__version__, "P100 (sm_60)", "T4 x2", "gpus=0"]),
        (OLD_TORCH, {"gpus": 2}, ["GPU 0", "no kernels", "CUDA 12.6"]),
        (BROKEN_GPU, {}, ["GPU 0, the A100, cannot compute (CUDA error: ECC)", "gpus=0"]),
    ],
)
@pytest.mark.fault
def test_what_the_machine_does_not_have_is_refused(machine, hardware, parameters, words):
    machine(**hardware)
    for other in (None, simulated(**hardware)):
        with refused(*words):
            devices.trainer_arguments(**parameters, machine=other)


@pytest.mark.parametrize("parameters", [{}, {"tpu_cores": 1}, {"tpu_cores": -1}])
@pytest.mark.fault
def test_a_torch_xla_for_another_torch_is_refused(machine, parameters):
    machine(cores=8, xla="2.7.1")
    with refused(version("torch"), "2.7.1", "do not match", "setup_tpu.sh", "restart"):
        devices.trainer_arguments(**parameters)
    _, device = devices.trainer_arguments(tpu_cores=0)
    assert device["kind"] == "cpu"  # without a TPU it does not matter


@pytest.mark.fault
def test_a_tpu_whose_cores_cannot_be_counted_is_refused(machine):
    machine(cores=8, counts="raise OSError('no metadata server')")
    for cores in (None, 8):
        with refused("cannot be counted (OSError)", "TPU_SKIP_MDS_QUERY=1", "pass tpu_cores=0"):
            devices.trainer_arguments(tpu_cores=cores)
    assert devices.trainer_arguments(tpu_cores=0)[1]["kind"] == "cpu"


def test_a_machine_with_torch_xla_but_without_chips_has_no_cores(machine):
    machine(cores=8, counts="raise OSError('no metadata server')", chips=0)
    assert devices.trainer_arguments()[1]["kind"] == "cpu"
    with refused("has 0 TPU cores"):
        devices.trainer_arguments(tpu_cores=1)


@pytest.mark.fault
def test_a_kernel_that_has_used_the_tpu_cannot_start_several_processes(machine):
    machine(cores=8, used=True)
    for other in (None, simulated(cores=8, xla_is_used=True)):
        for cores in (8, -1, None):
            with refused("has used the TPU already", "restart the kernel"):
                devices.trainer_arguments(tpu_cores=cores, machine=other)
        for cores in (1, [3]):  # one core needs no other process
            _, device = devices.trainer_arguments(tpu_cores=cores, machine=other)
            assert device["kind"] == "tpu"


def test_a_kernel_that_has_used_cuda_cannot_start_several_processes_on_gpus(machine, monkeypatch):
    """CUDA does not work in a fork of a process that has used it."""
    machine(gpus=2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for other in (None, simulated(gpus=2, cuda_is_used=True)):
        for gpus in (2, -1, None):
            with refused("has used a GPU already", "2 processes", "restart the kernel", "gpus=1"):
                devices.trainer_arguments(gpus=gpus, machine=other)
        for parameters in ({"gpus": 1}, {"gpus": 0}, {"cpu_processes": 2}):
            devices.trainer_arguments(**parameters, machine=other)
    launched = simulated(gpus=2, cuda_is_used=True, started_by_launcher=True)
    assert devices.trainer_arguments(machine=launched)[0]["strategy"] == "ddp"  # no fork


def test_a_card_that_is_not_used_or_only_occupied_is_no_obstacle(machine):
    for other in (None, simulated(gpus=2, card=P100)):
        machine(gpus=2, card=P100)
        assert devices.trainer_arguments(gpus=0, machine=other)[1]["kind"] == "cpu"
    for failure in ("CUDA error: all CUDA-capable devices are busy", "CUDA error: out of memory"):
        occupied = simulated(gpus=1, card=(*A100, failure))
        assert devices.trainer_arguments(machine=occupied)[1]["kind"] == "gpu"


def test_a_mac_with_a_gpu_uses_its_cpu_and_says_so(capsys):
    arguments, device = devices.trainer_arguments(machine=SimulatedMachine(mps=True, bf16=False))
    assert (arguments["accelerator"], device["dtype"]) == ("cpu", torch.float32)
    assert "Mac's GPU (MPS) is not used" in capsys.readouterr().out
    with refused("gpus=1", "MPS) is not supported", "pass gpus=0"):
        devices.trainer_arguments(gpus=1, machine=SimulatedMachine(mps=True))


def test_several_processes_on_a_mac_are_refused_unless_torchrun_starts_them():
    with refused("cpu_processes=2", "fork", "torchrun"):
        devices.trainer_arguments(cpu_processes=2, machine=SimulatedMachine(forks=False))
    launched = SimulatedMachine(forks=False, started_by_launcher=True)
    assert devices.trainer_arguments(cpu_processes=2, machine=launched)[0]["strategy"] == "ddp"
