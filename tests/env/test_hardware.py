"""What this machine has, found without starting CUDA or XLA in the notebook's process."""

import platform
import subprocess
from pathlib import Path

import pytest
import torch

import mlm.env.hardware as hardware
from helpers import refused
from mlm.env.devices import trainer_arguments


def test_a_simulated_machine_has_every_property_of_a_real_one():
    def properties(machine):
        return {name for name in dir(machine) if not name.startswith("_")}

    assert properties(hardware.Machine) == properties(hardware.SimulatedMachine())


VIEW = "shape '[3]' is invalid for input of size 8"


@pytest.mark.parametrize(
    "fails, failure", [("", ""), (".add(1)", "8 x 2 = 24.0"), (".view(3)", VIEW)]
)
def test_a_gpu_is_described_by_another_process(monkeypatch, fails, failure):
    """Neither counting nor describing may start CUDA here: no process per GPU could be started."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("_lazy_init", "get_device_capability", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("CUDA was initialized"))
    fake_gpu = """
import torch
from types import SimpleNamespace
torch.cuda.device_count = lambda: 1
ones = torch.ones
torch.ones = lambda size, device: ones(size){}
torch.cuda.get_device_properties = lambda i: SimpleNamespace(
    name="Tesla T4", total_memory=16, major=7, minor=5)
"""
    run = subprocess.run

    def run_with_fake_gpu(command, **options):
        return run([*command[:2], fake_gpu.replace("{}", fails) + command[2]], **options)

    monkeypatch.setattr(hardware.subprocess, "run", run_with_fake_gpu)
    machine = hardware.Machine()
    assert machine.card == hardware.Card("Tesla T4", 16, (7, 5), failure)
    if failure:
        with refused("GPU 0, the Tesla T4, cannot compute", failure):
            trainer_arguments(tpu_cores=0, machine=machine)
        return
    assert trainer_arguments(tpu_cores=0, machine=machine)[1]["dtype"] == torch.float16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 CPU")
def test_bf16_of_this_cpu():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert hardware.Machine().bf16 == ("avx512_bf16" in flags or "amx_tile" in flags)


def fail():
    raise OSError("no such device")


def sleep():
    import time

    time.sleep(60)


@pytest.mark.fault
def test_a_device_that_fails_or_hangs_is_one_line():
    with refused("the device does not work: OSError: no such device"):
        hardware.run_in_subprocess(fail)
    with refused("the device did not answer within 0.5 s", "restart the runtime"):
        hardware.run_in_subprocess(sleep, seconds=0.5)
