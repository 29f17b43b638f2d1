"""Recipes raced to a loss: held-out loss against seconds, this suite beside transformers.Trainer."""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from transformers import TrainerCallback

from mlm.benchmark.speed import Variant, trainer_pass
from mlm.optim.recipe import RECIPE_SETTINGS, choose_recipe
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM


def recipe_of(name, model, batch):
    """What `choose_recipe` chooses for a model and a batch: {name: value}; "fast" or "tutorial"."""
    return choose_recipe(dict.fromkeys(RECIPE_SETTINGS) | {"recipe": name}, model, batch)[0]


@dataclass(frozen=True)
class Contender:
    """A recipe that sees the lines `epochs` times: how a step is computed, how it trains.

    `how`: for this suite's loop what `choose_recipe` returns; for Trainer what differs in its arguments.
    """

    name: str
    rung: Variant
    how: dict
    epochs: int


RUN_MLM = dict(  # Trainer as transformers' run_mlm.py sets it, where it is not asked for more
    per_device_train_batch_size=8,
    learning_rate=5e-5,
    weight_decay=0.0,
    warmup_steps=0,
    max_grad_norm=1.0,
)
SEARCHED = {True: (1e-4, 3e-4, 1e-3, 2e-3, 4e-3), False: (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)}  # scratch?


def contenders(plain, stock, ours, model, epochs):
    """The tutorial's recipe, Trainer's defaults, Trainer at five learning rates, this suite's recipe.

    `plain`, `stock`, `ours` are the Rungs that compute their steps.
    """
    default, scratch = replace(stock, batch=8, dtype=torch.float32), model.startswith("scratch:")
    return [
        Contender("the tutorial's", plain, recipe_of("tutorial", model, plain.batch), 1),
        Contender("Trainer, run_mlm's defaults", default, RUN_MLM, 3),
        *(
            Contender(f"Trainer, lr {lr:g}", stock, dict(learning_rate=lr), epochs)
            for lr in SEARCHED[scratch]
        ),
        Contender("this suite", ours, recipe_of("fast", model, ours.batch), epochs),
    ]


class Track(TrainerCallback):
    """Held-out loss and accuracy against seconds of training; to measure does not count as training.

    It looks at steps that are evenly spread over the logarithm of time, and at the end.
    """

    def __init__(self, bench):
        self.bench, self.rows = bench, []

    def start(self, steps, bert):
        """Training of so many steps begins with these weights."""
        self.points = {round(steps ** (part / 32)) for part in range(33)} | {0, steps}
        self.began = self.bench.clock()
        self.look(0, bert)

    def look(self, step, bert):
        """So many steps are done."""
        if step not in self.points:
            return
        now = self.bench.clock()
        figures = evaluate(MaskedLM(bert, {}), self.bench.held_out)  # in float32, whoever trained
        self.rows.append({"step": step, "seconds": now - self.began, **figures})
        self.began += self.bench.clock() - now

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.start(state.max_steps, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.look(state.global_step, model)


@contextlib.contextmanager
def dropout_of(bert, share):
    """Train with this dropout for a while; None: with the model's own."""
    layers = [layer for layer in bert.modules() if isinstance(layer, torch.nn.Dropout)]
    own = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = layer.p if share is None else share
        yield
    finally:
        for layer, p in zip(layers, own):
            layer.p = p


def race_loop(bench, racer, track):
    """This suite's steps: what 04 does, without its logs, measurements and checkpoints."""
    rung, share = racer.rung, racer.how["mlm_probability"]
    how = {
        name: racer.how[name] for name in ("optimizer", "lr", "weight_decay", "schedule", "clip")
    }
    steps = racer.epochs * bench.steps(rung)
    optimizer, schedule = bench.optimizer(rung, how | {"total_steps": steps})
    with dropout_of(bench.bert, racer.how["dropout"]):
        track.start(steps, bench.bert)
        for step, batch in enumerate(bench.batches(rung, None, racer.epochs, share), 1):
            bench.step(rung, batch, optimizer, schedule)
            track.look(step, bench.bert)


def race(bench, racer):
    """A racer's way from the first weights: a DataFrame of step, seconds, loss, perplexity, accuracy."""
    track = Track(bench)
    bench.switch(racer.rung)
    if racer.rung.by == "Trainer":
        trainer_pass(bench, racer.rung, None, [track], num_train_epochs=racer.epochs, **racer.how)
    else:
        race_loop(bench, racer, track)
    return pd.DataFrame(track.rows)


def seconds_to(track, loss):
    """Seconds until the held-out loss was first measured at `loss` or below; NaN where it never was."""
    there = track.loc[track["loss"] <= loss, "seconds"]
    return there.iloc[0] if len(there) else np.nan


def best_of_search(tracks):
    """The tracks without those of Trainer's learning rates that ended above its best one."""
    ends = {name: track["loss"].iloc[-1] for name, track in tracks.items()}
    searched = [name for name in tracks if name.startswith("Trainer, lr")]
    best = min(searched, key=ends.get)
    return {name: track for name, track in tracks.items() if name not in searched or name == best}


def seconds_table(tracks):
    """Seconds of each recipe (columns) to the loss at which each ended (rows), a DataFrame."""
    ends = {name: track["loss"].iloc[-1] for name, track in tracks.items()}
    rows = {
        f"{loss:.2f}, where {name} ended": {n: seconds_to(t, loss) for n, t in tracks.items()}
        for name, loss in ends.items()
    }
    return pd.DataFrame(rows).T
