"""Gradient checkpointing: less memory for more time (Chen et al. 2016, arXiv:1604.06174).

The forward pass keeps only the input of each layer. The backward pass computes the layer again, with the same
dropout, so loss and gradients stay the same. The forward pass of the layers is a third of their work.
"""

import logging
from typing import Any

import torch

from mlm.env.notebook import NotebookError
from mlm.models.loading import DROPOUT_NAMES
from mlm.training.causes import StepMemory, available_memory

# The estimated fraction of the memory from which on checkpointing is used. The estimate leaves out the scores of
# attention, which CPUs store for rows below 1,024 tokens.
FILLED = {"cpu": 0.5, "gpu": 0.8}
PRICE = "it takes about a third more time"


def why_not_checkpoint(model: Any, device: dict[str, Any]) -> str | None:
    """Why gradient checkpointing cannot be used for a model on a device; None if it can."""
    if device["kind"] == "tpu":
        return "XLA would merge the second forward pass with the first one"
    if not model.supports_gradient_checkpointing:
        return f"transformers has none for {model.config.model_type!r} models"
    return None


def device_memory(device: dict[str, Any]) -> float:
    """The bytes of a GPU, or of this computer for each of its processes. device: from `trainer_arguments`."""
    if device["kind"] == "gpu":
        return device["card"].memory
    return available_memory(False)[0] / device["processes"]


def check_weights_fit(step: StepMemory, device: dict[str, Any]) -> None:
    """Raise NotebookError if the memory is too small for any batch: a CPU would end the kernel without a word.

    Weights, gradients and the optimizer's averages must fit; on TPUs, the runtime says so.
    """
    if device["kind"] == "tpu" or step.weights <= device_memory(device):
        return
    count = sum(weight.numel() for weight in step.model.parameters())
    raise NotebookError(
        f"model: training its {count:,} weights takes at least {step.weights / 1e9:.0f} GB (with gradients and "
        f"the optimizer's averages), and a process here has {device_memory(device) / 1e9:.0f} GB; pass a smaller "
        'model, such as "scratch:tiny", or use a machine with more memory'
    )


def choose_checkpointing(
    gradient_checkpointing: bool | str, step: StepMemory, device: dict[str, Any]
) -> tuple[bool, str]:
    """(whether to use gradient checkpointing, the reason).

    gradient_checkpointing: the parameter, "auto", True or False. device: from `trainer_arguments`. Raises
    NotebookError if it is True and the model or the device cannot.
    """
    why_not = why_not_checkpoint(step.model, device)
    if gradient_checkpointing is True and why_not:
        raise NotebookError(
            f'gradient_checkpointing must be "auto" or False here, got True: {why_not}; change it in the '
            "parameters"
        )
    if gradient_checkpointing != "auto":
        reason = (
            f"set in the parameters; {PRICE}" if gradient_checkpointing else "set in the parameters"
        )
        return bool(gradient_checkpointing), reason
    if why_not:
        return False, why_not
    memory = device_memory(device)
    needed, less = step.bytes_needed(False), step.bytes_needed(True)
    if needed <= FILLED[device["kind"]] * memory:
        needs = f"about {needed / 1e9:.1f}" if needed >= 1e8 else "less than 0.1"
        return False, f"a step takes {needs} of {memory / 1e9:.0f} GB (estimated)"
    return True, (
        f"without it, a step would take about {needed / 1e9:.1f} of {memory / 1e9:.0f} GB, with it "
        f"{less / 1e9:.1f} GB (estimated); {PRICE}"
    )


def has_dropout(model: Any) -> bool:
    """Whether any layer of a model draws random numbers in training."""
    layers = (m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    config = model.config.get_text_config()
    return any(layers) or any(getattr(config, name, 0) for name in DROPOUT_NAMES)


def use_gradient_checkpointing(
    gradient_checkpointing: bool | str, model: Any, data: Any, device: dict[str, Any]
) -> None:
    """Switch gradient checkpointing of a model on or off as `choose_checkpointing` says, and print why.

    data: the MaskedLMData whose batches must fit into memory. device: from `trainer_arguments`. Raises
    NotebookError if it cannot be used, or if not even the weights fit into the memory.
    """
    step = StepMemory.of(model, data, device["dtype"])
    check_weights_fit(step, device)
    is_on, reason = choose_checkpointing(gradient_checkpointing, step, device)
    print(f"gradient checkpointing is {'on' if is_on else 'off'}: {reason}")
    set_checkpointing(model, is_on)


def is_not_about_caches(record: logging.LogRecord) -> bool:
    """Hides a warning of transformers: encoders have a setting `use_cache`, but no cache."""
    return "use_cache" not in record.getMessage()


def set_checkpointing(model: Any, is_on: bool) -> None:
    """Switch gradient checkpointing of a model on or off.

    The random state is saved only for dropout: a CUDA graph cannot record that.
    """
    form = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if is_on:
        for module in ("utils.generic", "modeling_layers"):
            logging.getLogger(f"transformers.{module}").addFilter(is_not_about_caches)
        options = {"use_reentrant": False, "preserve_rng_state": has_dropout(model)}
        getattr(model, f"{form}_checkpointing_enable")(options)
    elif model.supports_gradient_checkpointing:
        getattr(model, f"{form}_checkpointing_disable")()
