"""Settings that the parameters leave open: kept from a resumed run, or chosen for model, text and device."""

import math
from typing import Any

from mlm.env.devices import DTYPES
from mlm.env.files import absolute_path
from mlm.env.notebook import NotebookError
from mlm.models.configs import encoder_size
from mlm.models.kernels import EARLIER_KERNELS
from mlm.models.loading import choose_packing
from mlm.optim.recipe import choose_batch_size, choose_recipe, earlier_fine_tuning_lr
from mlm.training.history import out_of_patience
from mlm.training.run import recorded_settings, recorded_state


def resumed_choices(parameters: dict[str, Any]) -> dict[str, Any]:
    """{"precision", "kernels", "lr"} that a resumed run began with, where the parameters leave the choice.

    Precision and kernels are chosen by timing on a CPU. A resumed run must not choose again: with others,
    numbers are rounded differently. "lr" is None, except for a run whose learning rate follows a rule of
    an earlier version. parameters: of notebook 04.
    """
    precision, kernels, lr = parameters["precision"], parameters["kernels"], None
    settings = {}
    if parameters["resume"] == "auto":
        folder = absolute_path("workdir", parameters["workdir"]) / parameters["run_name"]
        settings = recorded_settings(folder)
    if settings.get("device") == "cpu":
        names = {str(dtype): name for name, dtype in DTYPES.items()}
        precision = names[settings["dtype"]] if precision == "auto" else precision
        kernels = settings.get("kernels", EARLIER_KERNELS) if kernels == "auto" else kernels
    if settings and parameters["recipe"] == "fast" and has_earlier_lr(settings):
        lr = settings["lr"]
    return {"precision": precision, "kernels": kernels, "lr": lr}


def steps_left(parameters: dict[str, Any], total_steps: int) -> int:
    """How many of `total_steps` a run still has to train, by its newest checkpoint; all if it is a new one.

    parameters: of notebook 04.
    """
    if parameters["resume"] != "auto":
        return total_steps
    folder = absolute_path("workdir", parameters["workdir"]) / parameters["run_name"]
    step, state = recorded_state(folder)
    if state and out_of_patience(state["history"], parameters["patience"]):
        return 0
    return max(0, total_steps - step)


def has_earlier_lr(settings: dict[str, Any]) -> bool:
    """Whether the learning rate in a run's settings is the one that earlier versions chose for fine-tuning."""
    if settings["model"].startswith("scratch:"):
        return False
    per_step = settings["batch_size"] * settings["processes"] * settings.get("accumulate", 1)
    return settings["lr"] == earlier_fine_tuning_lr(per_step)


def check_accumulate(accumulate: int, batch_size: int, processes: int, num_examples: int) -> None:
    """Raise NotebookError if an optimizer step has more batches than an epoch: the others would be empty.

    num_examples: of an epoch.
    """
    num_batches = math.ceil(num_examples / (batch_size * processes))
    if accumulate > num_batches:
        raise NotebookError(
            f"accumulate must be at most {num_batches:,} with this text, got {accumulate:,}: an epoch has "
            f"{num_examples:,} examples, which are {num_batches:,} batches of {batch_size:,} x {processes} "
            "process(es), and a step with more has empty batches; pass a smaller value, or a longer text"
        )


def complete_config(
    parameters: dict[str, Any], train: Any, device: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(config, reasons): the parameters of 04 without a None that the recipe fills in, {setting: why}.

    A resumed run keeps the kernels and the learning rate that it began with. config also has "pack", whether
    examples share rows, "examples_per_step", the number of examples in an optimizer step (at most an epoch's),
    and "parameters", as they were passed. train: a MaskedLMDataset. device: from `trainer_arguments`.
    Raises NotebookError if `accumulate` is more than an epoch's batches.
    """
    model = parameters["model"]
    resumed = resumed_choices(parameters)
    pack, size = choose_packing(model), encoder_size(model)
    batch_size, why = choose_batch_size(parameters, train, pack, device, size)
    processes = device["processes"] * parameters["num_nodes"]
    check_accumulate(parameters["accumulate"], batch_size, processes, train.examples_per_epoch)
    examples_per_step = batch_size * parameters["accumulate"] * processes
    examples_per_step = min(examples_per_step, train.examples_per_epoch)
    chosen, reasons = choose_recipe(parameters, model, examples_per_step, size, resumed["lr"])
    added = {"batch_size": batch_size, "kernels": resumed["kernels"], "pack": pack}
    added |= {"examples_per_step": examples_per_step, "parameters": parameters}
    config = parameters | chosen | added
    return config, {"batch_size": why, **reasons}
