"""torch.compile for the encoder, where it pays."""

import importlib.util
import os
import shutil

import torch

from mlm.env.notebook import NotebookError

MIN_STEPS_TO_COMPILE = (
    5000  # steps from which a GPU may win back what compiling takes: estimated, never measured
)


def why_not_compile(device):
    """Why torch.compile cannot be used on a device, in words; None where nothing speaks against it."""
    if device["kind"] == "tpu":
        return "XLA compiles the whole step already"
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if not any(map(shutil.which, compilers)):
        return "there is no C++ compiler here (g++ or clang++), which Inductor needs"
    if device["kind"] == "gpu" and not importlib.util.find_spec("triton"):
        return "Triton is not installed, which Inductor needs on a GPU"
    if device["kind"] == "gpu" and device["card"][2][0] < 7:
        return f"Triton, which Inductor needs, knows no card as old as the {device['card'][0]}"
    return None


def choose_compile(asked, device, total_steps):
    """(whether to compile, why); `asked` is "auto", True or False, `device` that of `trainer_arguments`.

    Raises NotebookError where it is asked for and cannot be.
    """
    why_not = why_not_compile(device)
    if asked is True and why_not:
        raise NotebookError(f'compile=True is impossible: {why_not}; pass "auto" or False')
    if asked != "auto":
        return asked, "as asked"
    if device["kind"] == "cpu":
        return False, "on a CPU it takes minutes and gains a twentieth, as measured"
    if why_not or total_steps >= MIN_STEPS_TO_COMPILE:
        return not why_not, why_not or f"{total_steps:,} steps are enough to win its minutes back"
    return (
        False,
        f"fewer than {MIN_STEPS_TO_COMPILE:,} steps hardly win back the minutes that it takes",
    )


def compile_encoder(bert, asked, device, total_steps):
    """Compile the encoder of a model in place, where that was chosen; returns whether it was.

    No weight and no name changes. The LightningModule around it stays as it is: in a compiled one
    `self.log` fails (Lightning#21836). Each shape of a batch is compiled once for training and once
    for measuring. What was compiled in this process before is forgotten.
    """
    chosen, why = choose_compile(asked, device, total_steps)
    print(f"the encoder is {'' if chosen else 'not '}compiled: {why}")
    if chosen:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        bert.base_model.compile(dynamic=False)
    return chosen


def compile_counts():
    """How many graphs torch.compile has made of the encoder, and how often it had to break off."""
    counters = torch._dynamo.utils.counters
    return dict(
        graphs=counters["stats"]["unique_graphs"], breaks=sum(counters["graph_break"].values())
    )
