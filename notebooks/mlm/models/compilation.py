"""torch.compile for the layers of the encoder, if the parameters ask for it.

The layers of an encoder have the same code, so one is compiled and all use the result ("regional compilation",
https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). On an H200, that took 4 to 9 s instead of 28 s
for the whole encoder of BERT-base.
"""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from mlm.env.notebook import NotebookError


def python_header() -> Path:
    """Where Python.h is, if it is installed. Inductor and Triton look for it there, also on Debian."""
    return Path(
        sysconfig.get_path("include", "nt" if os.name == "nt" else "posix_prefix"), "Python.h"
    )


def why_not_compile(device: dict[str, Any]) -> str | None:
    """Why torch.compile cannot be used on a device; None if it can."""
    if device["kind"] == "tpu":
        return "XLA already compiles the whole step"
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))):
        return "Inductor needs a C++ compiler (g++ or clang++), and none is installed"
    if not python_header().exists():
        return f"Inductor needs {python_header()}: install python3-dev (Debian) or python3-devel"
    if device["kind"] != "gpu":
        return None
    if not importlib.util.find_spec("triton"):
        return "Inductor needs Triton on a GPU, and it is not installed"
    if device["card"].capability[0] < 7:
        return f"Inductor needs Triton, which does not support the {device['card'].name}"
    # like Triton: $CC as it is, else gcc, else clang
    if not any(map(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"])):
        return "Triton needs a C compiler (gcc or clang, or the path in CC), and none is installed"
    return None


def choose_compile(compile: bool | str, device: dict[str, Any]) -> tuple[bool, str]:
    """(whether to compile, the reason). compile: the parameter, "auto", True or False.

    device: from `trainer_arguments`. Raises NotebookError if `compile` is True and the device cannot.
    """
    why_not = why_not_compile(device)
    if compile is True and why_not:
        raise NotebookError(
            f'compile must be "auto" or False on this machine, got True: {why_not}; '
            "change it in the parameters"
        )
    if compile != "auto":
        return bool(compile), "set in the parameters"
    if why_not:
        return False, why_not
    if device["kind"] == "cpu":
        return False, "on a CPU it saves no time (measured)"
    return False, (
        "it takes 10 s or more, then steps are up to 1.25 times as fast (on an H200); pass "
        "compile=True for a long training"
    )


def layers_to_compile(encoder: torch.nn.Module) -> list[torch.nn.Module]:
    """What transformers marks as the layers of an encoder; the encoder itself, if it marks none."""
    layers = [part for part in encoder.modules() if isinstance(part, GradientCheckpointingLayer)]
    return layers or [encoder]


def compile_layers(model: Any, compile: bool | str, device: dict[str, Any]) -> bool:
    """Compile the layers of a model in place if `choose_compile` says so; prints and returns whether.

    No weight changes its value or name. The LightningModule around the model is not compiled: `self.log`
    would fail in it (Lightning#21836). Layers are compiled once for each shape of a batch, in training and in
    evaluation. Code that was compiled earlier in this process is discarded.
    """
    is_compiled, reason = choose_compile(compile, device)
    print(f"torch.compile is {'on' if is_compiled else 'off'}: {reason}")
    layers = layers_to_compile(model.base_model)
    for layer in layers:
        layer._compiled_call_impl = None  # of an earlier call; torch has no function for that
    if is_compiled:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        for layer in layers:
            layer.compile(dynamic=False)
    return is_compiled


def compile_counts() -> dict[str, int]:
    """{"graphs": compiled graphs of layers, "breaks": places where torch.compile gave up}."""
    counters = torch._dynamo.utils.counters
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
    }
