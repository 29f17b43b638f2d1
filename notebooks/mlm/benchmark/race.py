"""Whole recipes compared: validation loss against seconds, this suite and transformers.Trainer."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import TrainerCallback

from mlm.benchmark.speed import Bench, Variant, trainer_seconds
from mlm.models.configs import encoder_size
from mlm.optim.recipe import RECIPE_SETTINGS, choose_recipe
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM

NUM_EVALUATIONS = 32  # of a training in the race, besides the one before the first step

RUN_MLM_DEFAULTS = dict(  # what Trainer uses in run_mlm.py unless more is specified
    per_device_train_batch_size=8,
    learning_rate=5e-5,
    weight_decay=0.0,
    warmup_steps=0,
    max_grad_norm=1.0,
)
EPOCHS = 3  # of each contender but the tutorial's: the default of run_mlm.py
LR_FACTORS = 0.5, 1, 2, 4  # learning rates tried with Trainer: these times `Bench.peak_lr`
SEARCHES = {  # searches for Trainer's learning rate: the settings that they take from this suite
    "Trainer": (),
    "Trainer, same dropout and masking": ("dropout", "mlm_probability"),
}

# contenders


@dataclass(frozen=True)
class Contender:
    """A recipe in the race: it trains for `epochs` epochs, each step computed as `variant` says.

    `settings`: for this suite's loop the recipe that `choose_recipe` returns; for Trainer the
    TrainingArguments that differ from those in `trainer_seconds`, and "dropout" and "mlm_probability" if
    they differ from the model's and the bench's.
    """

    name: str
    variant: Variant
    settings: dict[str, Any]
    epochs: int


def recipe_settings(recipe: str, model_name: str, batch_size: int) -> dict[str, Any]:
    """The settings that `choose_recipe` chooses for a model and batch size: "fast" or "tutorial"."""
    parameters = {**dict.fromkeys(RECIPE_SETTINGS), "recipe": recipe}
    settings, _ = choose_recipe(parameters, model_name, batch_size, encoder_size(model_name))
    return settings


def searched(stock: Variant, ours: Variant, model_name: str, lr: float) -> list[Contender]:
    """Trainer at several learning rates around `lr`, once for each of the SEARCHES.

    All clip gradients as this suite does. `stock` and `ours` are the variants that compute the steps of
    Trainer and of this suite.
    """
    fast_settings = recipe_settings("fast", model_name, ours.batch_size)
    return [
        Contender(
            f"{search}, lr {factor * lr:.2g}",
            stock,
            {"learning_rate": factor * lr, "max_grad_norm": fast_settings["clip"]}
            | {name: fast_settings[name] for name in names},
            EPOCHS,
        )
        for search, names in SEARCHES.items()
        for factor in LR_FACTORS
    ]


def best_of_search(tried: list[Contender], losses: dict[str, float]) -> list[Contender]:
    """Of each search, the contender with the lowest loss; `losses` is {name: final validation loss}."""
    searches = (
        [contender for contender in tried if contender.name.startswith(f"{search}, lr ")]
        for search in SEARCHES
    )
    return [min(search, key=lambda contender: losses[contender.name]) for search in searches]


def contenders(
    plain: Variant, ours: Variant, best: list[Contender], model_name: str, examples: str
) -> list[Contender]:
    """The tutorial's recipe, Trainer with run_mlm's defaults, the `best` of the searches, this suite.

    All train on `bench.data[examples]`. `plain` and `ours` are the variants that compute the steps of the
    tutorial and of this suite.
    """
    run_mlm = replace(best[0].variant, batch_size=8, dtype=torch.float32)
    tutorial_settings = recipe_settings("tutorial", model_name, plain.batch_size)
    fast_settings = recipe_settings("fast", model_name, ours.batch_size)
    made = [
        Contender("the tutorial's recipe", plain, tutorial_settings, epochs=1),
        Contender("Trainer, run_mlm's defaults", run_mlm, RUN_MLM_DEFAULTS, EPOCHS),
        *best,
        Contender("this suite", ours, fast_settings, EPOCHS),
    ]
    return [replace(each, variant=replace(each.variant, examples=examples)) for each in made]


# train one


class ValidationCurve(TrainerCallback):
    """Evaluates before training, at the end, and between at steps evenly spread over their logarithm.

    `rows` has step, seconds, loss, perplexity and accuracy. Evaluation does not count as training time.
    """

    def __init__(self, bench: Bench, evaluations: int = NUM_EVALUATIONS) -> None:
        self.bench = bench
        self.evaluations = evaluations
        self.rows: list[dict[str, float]] = []

    def start(self, total_steps: int, model: torch.nn.Module) -> None:
        """Begin a training of `total_steps` steps and evaluate the initial weights."""
        fractions = (number / self.evaluations for number in range(1, self.evaluations + 1))
        self.evaluate_at = {0} | {round(total_steps**fraction) for fraction in fractions}
        self.start_time = self.bench.clock()
        self.after_step(0, model)

    def after_step(self, step: int, model: torch.nn.Module) -> None:
        """Evaluate, if this is one of the steps to evaluate at."""
        if step not in self.evaluate_at:
            return
        now = self.bench.clock()
        module = MaskedLM(model, {})  # computes in float32, no matter what training used
        metrics = evaluate(module, self.bench.validation_batches)
        self.rows.append({"step": step, "seconds": now - self.start_time, **metrics})
        self.start_time += self.bench.clock() - now

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.start(state.max_steps, model)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.after_step(state.global_step, model)


@contextlib.contextmanager
def set_dropout(model: torch.nn.Module, rate: float | None) -> Iterator[None]:
    """Context manager: all dropout layers have this rate. None keeps the model's own rates."""
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    before = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = layer.p if rate is None else rate
        yield
    finally:
        for layer, p in zip(layers, before):
            layer.p = p


def race_loop(bench: Bench, contender: Contender, curve: ValidationCurve) -> None:
    """Train with this suite's steps: as in 04, without its logs and checkpoints."""
    variant, settings = contender.variant, contender.settings
    names = "optimizer", "lr", "weight_decay", "schedule", "clip"
    total_steps = contender.epochs * bench.num_steps(variant)
    options = {name: settings[name] for name in names} | {"total_steps": total_steps}
    optimizer, schedule = bench.make_optimizer(variant, options)
    batches = bench.batches(
        variant, epochs=contender.epochs, mlm_probability=settings["mlm_probability"]
    )
    curve.start(total_steps, bench.model)
    for step, batch in enumerate(batches, 1):
        bench.step(variant, batch, optimizer, schedule)
        curve.after_step(step, bench.model)


def race(bench: Bench, contender: Contender, evaluations: int = NUM_EVALUATIONS) -> pd.DataFrame:
    """Train a contender from the initial weights: step, seconds, loss, perplexity, accuracy.

    evaluations: their number at most, besides the one before training; the last one is after the last step.
    """
    curve, settings = ValidationCurve(bench, evaluations), dict(contender.settings)
    with (
        bench.explained_errors(contender.variant),
        set_dropout(bench.model, settings.pop("dropout", None)),
    ):
        bench.switch(contender.variant)
        if contender.variant.trainer == "Trainer":
            epochs = contender.epochs
            trainer_seconds(bench, contender.variant, callbacks=[curve], epochs=epochs, **settings)
        else:
            race_loop(bench, contender, curve)
    return pd.DataFrame(curve.rows)


# compare


def final_losses(curves: dict[str, pd.DataFrame]) -> dict[str, float]:
    """{contender: validation loss after its last step}."""
    return {name: curve["loss"].iloc[-1] for name, curve in curves.items()}


def seconds_to(curve: pd.DataFrame, loss: float) -> float:
    """Seconds until the validation loss first was at `loss` or below; NaN if it never was."""
    reached = curve.loc[curve["loss"] <= loss, "seconds"]
    return reached.iloc[0] if len(reached) else np.nan


def seconds_table(curves: dict[str, pd.DataFrame], baseline: float) -> pd.DataFrame:
    """Seconds that each recipe (column) needs to reach a loss (row), from the highest loss to the lowest.

    The losses are the final losses of the recipes and the unigram `baseline`.
    """
    losses = {f"final loss of {name}": loss for name, loss in final_losses(curves).items()}
    losses["unigram baseline"] = baseline
    rows = {
        f"{loss:.2f}, {name}": {other: seconds_to(curve, loss) for other, curve in curves.items()}
        for name, loss in sorted(losses.items(), key=lambda item: -item[1])
    }
    return pd.DataFrame(rows).T
