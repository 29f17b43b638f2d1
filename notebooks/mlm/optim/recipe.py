"""How to train: the recipe that fits a model, its optimizer and its learning rate at each step."""

import math
import os

import torch

from mlm.env.hardware import TPU_GB
from mlm.env.notebook import NotebookError
from mlm.models.sizes import SIZES

RECIPE_SETTINGS = (
    "optimizer",
    "lr",
    "schedule",
    "weight_decay",
    "dropout",
    "mlm_probability",
    "mlm_probability_end",
    "clip",
)  # what is chosen
TUTORIAL = dict(
    optimizer="adamw",
    lr=1e-5,
    schedule="constant",
    weight_decay=0.01,
    dropout=None,
    mlm_probability=0.15,
    mlm_probability_end=None,
    clip=0.0,
)
FAST = dict(
    schedule="trapezoid",
    weight_decay=0.1,
    dropout=0.0,
    mlm_probability=0.3,
    mlm_probability_end=None,
    clip=1.0,
)
MUON_MAX_HIDDEN_SIZE = (
    256  # a hidden size up to which Muon's products are cheap beside a step's own
)


def choose_batch_size(asked, model, max_len, device):
    """(examples per process and step, why); where `asked` is None, what suits the device.

    On a GPU or TPU: the largest power of two up to 256 whose forward pass keeps no more than a quarter
    of the memory for backward: 34 bytes a token, layer and hidden size in 16 bits (Korthikanti et al.
    2022, arXiv:2205.05198), twice that in 32. A pretrained model is taken for a BERT-base.
    """
    if asked is not None:
        return asked, "as asked"
    if device["kind"] == "cpu":
        return 32, "enough to keep a CPU busy"
    hidden, layers = SIZES[model.removeprefix("scratch:")] if "scratch:" in model else SIZES["base"]
    tpu = os.environ.get("TPU_ACCELERATOR_TYPE", "").split("-")[0]  # of an unknown one, a v5e's
    memory = device["card"][1] if device["kind"] == "gpu" else 1e9 * TPU_GB.get(tpu, 16)
    kept = 34 * hidden * layers * max_len * (2 if device["dtype"] == torch.float32 else 1)
    size = 2 ** int(math.log2(min(256, max(1, memory / 4 / kept))))
    return size, f"{size * kept / 1e9:.1f} of {memory / 1e9:.0f} GB for activations (never tried)"


def choose_recipe(asked, model, batch_size):
    """What to train with, and why: {name: value} and {name: reason}.

    `asked` are the notebook's parameters: what is not None there is taken. "tutorial" is the recipe of
    2020. "fast" was chosen by measurement (docs/recipe.md): random weights bear more than pretrained
    ones, narrow models more than wide ones, and large batches, of `batch_size` examples in a step,
    more than small ones (here: with the square root).
    dropout None is the model's own, mlm_probability_end None a share that stays.
    Raises NotebookError where mlm_probability_end is above mlm_probability.
    """
    growth, scratch = (batch_size / 32) ** 0.5, model.startswith("scratch:")
    hidden = SIZES[model.removeprefix("scratch:")][0] if scratch else None
    if asked["recipe"] == "tutorial":
        found, why = TUTORIAL, "the tutorial's"
    else:
        optimizer = asked["optimizer"] or (
            "muon" if scratch and hidden <= MUON_MAX_HIDDEN_SIZE else "adamw"
        )
        lr, why = 4e-4, f"fine-tuning, batch {batch_size}"
        if scratch:
            lr = (2e-3 if optimizer == "muon" else 1e-3) * 128 / hidden
            why = f"from scratch, hidden size {hidden}, batch {batch_size}"
        found = FAST | dict(optimizer=optimizer, lr=lr * growth)
    given = {name: asked[name] for name in RECIPE_SETTINGS if asked[name] is not None}
    reasons = {name: "as asked" if name in given else why for name in RECIPE_SETTINGS}
    chosen = {name: (found | given)[name] for name in RECIPE_SETTINGS}
    first, last = chosen["mlm_probability"], chosen["mlm_probability_end"]
    if last is not None and last > first:
        raise NotebookError(
            f"mlm_probability_end={last} is impossible: allowed is None or at most "
            f"mlm_probability={first}, from which the share falls"
        )
    return chosen, reasons
