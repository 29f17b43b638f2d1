"""The recipe: all training settings, chosen for a model, each with a reason.

RECIPES is the table of recipes. This module imports no torch, so that parameters can be checked early.
"""

import math
import os
from collections.abc import Callable
from typing import Any

from mlm.env.scratch import PREFIX

RECIPE_SETTINGS = (
    "optimizer",
    "lr",
    "schedule",
    "weight_decay",
    "dropout",
    "mlm_probability",
    "clip",
)
MUON_MAX_HIDDEN_SIZE = 512  # Muon was measured to be better than AdamW up to this width
MEASURED_LR = 4e-4  # for fine-tuning the encoder with which rates were tried, of this size:
MEASURED_SIZE = 384, 6  # (hidden size, layers)

Recipe = dict[str, tuple[Any, str]]  # {setting: (value, reason)}; dropout None: the model's own


def bytes_per_example(
    hidden: int,
    layers: int,
    vocab_size: int,
    tokens: float,
    mlm_probability: float,
    itemsize: int,
    checkpointing: bool = False,
) -> float:
    """Bytes that a training step needs for each example of `tokens` tokens, weights not included.

    A layer stores 34 bytes per token and hidden unit in 16 bits (Korthikanti et al. 2022,
    arXiv:2205.05198), twice as many in 32 bits. Each score of a masked token takes up to 14 bytes: in 16
    bits and in float32, its log-softmax, and the gradients of the first two. With gradient checkpointing, a
    step stores the input of each layer in float32, and everything else of a single layer.
    """
    activations = 17 * itemsize * hidden * layers
    if checkpointing:
        activations = 4 * hidden * layers + 17 * itemsize * hidden
    return tokens * (activations + 14 * mlm_probability * vocab_size)


def largest_batch(memory: float, example: float) -> int:
    """The largest power of two up to 256 whose examples fill at most a quarter of `memory` bytes."""
    return 2 ** int(math.log2(min(256, max(1, memory / 4 / example))))


def tokens_per_example(train: Any, pack: bool) -> float:
    """How many tokens of a batch an example takes, with [CLS] and [SEP].

    In packed rows, that is its own length. Otherwise, it is the length of the longest example.
    """
    return float(train.lengths.mean() if pack else train.lengths.max()) + 2


def choose_batch_size(
    parameters: dict[str, Any],
    train: Any,
    pack: bool,
    device: dict[str, Any],
    size: tuple[int, int],
) -> tuple[int, str]:
    """(examples per process and batch, the reason); the parameter `batch_size` unless it is None.

    On a GPU or TPU: the largest power of two up to 256 that is estimated to fill at most a quarter of the
    memory. train: a MaskedLMDataset. pack: whether its examples are packed. size: (hidden size, layers),
    from `encoder_size`.
    """
    from mlm.env.hardware import TPU_GB  # here, because that module imports torch

    if parameters["batch_size"] is not None:
        return parameters["batch_size"], "set in the parameters"
    if device["kind"] == "cpu":
        return 32, "enough to keep a CPU busy"
    rate = choose_recipe(parameters, parameters["model"], 1, size)[0]["mlm_probability"]
    tokens, vocab_size = tokens_per_example(train, pack), len(train.tokenizer)
    example = bytes_per_example(*size, vocab_size, tokens, rate, device["dtype"].itemsize)
    tpu_type = os.environ.get("TPU_ACCELERATOR_TYPE", "").split("-")[0]
    memory = device["card"].memory if device["kind"] == "gpu" else 1e9 * TPU_GB.get(tpu_type, 16)
    examples = largest_batch(memory, example)
    used = f"{examples * example / 1e9:.1f} of {memory / 1e9:.0f} GB"
    return examples, f"a step takes about {used} (estimated)"


def scratch_lr(hidden: int, batch_size: int, optimizer: str) -> tuple[float, str]:
    """(peak learning rate, reason) for a model from scratch; batch_size: examples per optimizer step.

    Randomly initialized models tolerate higher learning rates than pretrained ones, and narrow models
    higher ones than wide ones. The learning rate grows with the square root of the batch size.
    """
    base = 2e-3 if optimizer == "muon" else 1e-3
    lr = base * 128 / hidden * (batch_size / 32) ** 0.5
    return lr, f"{base:.0e} x 128/hidden size x sqrt(batch/32)".replace("e-0", "e-")


def fine_tuning_lr(size: tuple[int, int]) -> tuple[float, str]:
    """(peak learning rate, reason) for a pretrained model of this size (hidden size, layers).

    The same for all batch sizes: with equal epochs, a larger batch makes fewer steps, but larger steps
    damage what pretrained weights know (256 examples per step: loss 4.70 instead of 5.24 with the square
    root). MEASURED_LR for MEASURED_SIZE and smaller models. For larger ones it falls with width times depth:
    1e-4 for BERT-base, 3.8e-5 for BERT-large. That was not measured; it lies within published practice
    (docs/recipe.md).
    """
    measured = math.prod(MEASURED_SIZE)
    if math.prod(size) <= measured:
        return MEASURED_LR, "fine-tuning: 4e-4, whatever the batch size"
    lr = float(f"{MEASURED_LR * measured / math.prod(size):.2g}")
    return lr, "fine-tuning: 4e-4 x 2304/(hidden size x layers)"


def earlier_fine_tuning_lr(batch_size: int) -> float:
    """The learning rate that earlier versions chose for all pretrained models; their runs keep it."""
    return 4e-4 * (batch_size / 32) ** 0.5


def tutorial_recipe(
    model: str, batch_size: int, optimizer: str | None, size: tuple[int, int]
) -> Recipe:
    """The settings of the 2020 tutorial, for every model and batch size."""
    return {
        "optimizer": ("adamw", "tutorial: AdamW (arXiv:1711.05101)"),
        "lr": (1e-5, "tutorial: low, for fine-tuning"),
        "schedule": ("constant", "tutorial: no warm-up, no decay"),
        "weight_decay": (0.01, "tutorial: torch's default for AdamW"),
        "dropout": (None, "tutorial: the model's own, 0.1 in BERT"),
        "mlm_probability": (0.15, "tutorial: 15%, as BERT (arXiv:1810.04805)"),
        "clip": (0.0, "tutorial: no gradient clipping"),
    }


def fast_recipe(
    model: str, batch_size: int, optimizer: str | None, size: tuple[int, int]
) -> Recipe:
    """Settings that reached the lowest validation loss in a given time (docs/recipe.md)."""
    hidden, _ = size
    is_scratch = model.startswith(PREFIX)
    if not is_scratch:
        chosen = "adamw", "usual for pretrained models"
    elif hidden <= MUON_MAX_HIDDEN_SIZE:
        chosen = "muon", "lower loss than AdamW in the same time"
    else:
        chosen = "adamw", f"Muon was tried up to hidden size {MUON_MAX_HIDDEN_SIZE} only"
    name = optimizer or chosen[0]
    return {
        "optimizer": chosen,
        "lr": scratch_lr(hidden, batch_size, name) if is_scratch else fine_tuning_lr(size),
        "schedule": ("trapezoid", "warm-up, constant, decay (arXiv:2106.04560)"),
        "weight_decay": (0.1, "best of 0.01, 0.1, 0.3 (one seed)"),
        "dropout": (0.0, "best on a small text (one seed)"),
        "mlm_probability": (0.3, "more targets per step (arXiv:2202.08005)"),
        "clip": (1.0, "protects from unusual batches"),
    }


RECIPES: dict[str, Callable[[str, int, str | None, tuple[int, int]], Recipe]] = {
    "fast": fast_recipe,
    "tutorial": tutorial_recipe,
}


def choose_recipe(
    parameters: dict[str, Any],
    model: str,
    batch_size: int,
    size: tuple[int, int],
    resumed_lr: float | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """All training settings, and the reason for each: {setting: value}, {setting: reason}.

    parameters: the notebook's; a setting that is not None there is used as it is. batch_size: examples per
    optimizer step, of all processes and accumulated batches. size: (hidden size, layers), from
    `encoder_size`. resumed_lr: the learning rate of a run of an earlier version, from `resumed_choices`.
    Raises KeyError if `parameters["recipe"]` is not in RECIPES.
    """
    recipe = RECIPES[parameters["recipe"]](model, batch_size, parameters["optimizer"], size)
    if resumed_lr not in (None, recipe["lr"][0]):
        recipe["lr"] = resumed_lr, "as this run began: the rule of an earlier version"
    for name in RECIPE_SETTINGS:
        if parameters[name] is not None:
            recipe[name] = parameters[name], "set in the parameters"
    values = {name: recipe[name][0] for name in RECIPE_SETTINGS}
    reasons = {name: recipe[name][1] for name in RECIPE_SETTINGS}
    return values, reasons
