"""How long training takes: a forecast before it begins, and the time left while it runs."""

import copy
import math
import time
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F

from mlm.training.causes import StepMemory, explained_memory_errors
from mlm.training.datamodule import MaskedLMData
from mlm.training.module import MaskedLM, masked_labels

SHORT, LONG = 32, 128  # tokens of the smallest timed step, and of a timed row
ENOUGH_SECONDS = 0.5  # a timed step that takes this long is the last one
LONG_TRAINING = 600  # seconds; for a longer one, the forecast says what would be faster


class TimeLeft:
    """Estimates the rest of a training from the steps and evaluations so far. Its clock runs from now on.

    step: how many of `total_steps` are done. evaluation_steps: after which steps it evaluates.
    """

    def __init__(self, step: int, total_steps: int, evaluation_steps: Collection[int]) -> None:
        self.first_step, self.began = step, time.perf_counter()
        self.total_steps, self.evaluation_steps = total_steps, evaluation_steps
        self.evaluation_seconds = 0.0
        self.is_warm = False  # the first steps take longer than later ones

    def evaluated(self, seconds: float) -> None:
        """An evaluation took `seconds`; the next ones will take about as long."""
        self.evaluation_seconds = seconds
        self.began += seconds

    def seconds(self, step: int) -> float | None:
        """The estimated seconds until the end of training, after `step`; None if that is unknown, and at the end.

        The evaluation after `step` is still to come. The device must have computed this step.
        """
        now, steps = time.perf_counter(), step - self.first_step
        if steps <= 0 or step >= self.total_steps:
            return None
        seconds_per_step = (now - self.began) / steps
        if not self.is_warm:
            self.first_step, self.began, self.is_warm = step, now, True
        evaluations = sum(later >= step for later in self.evaluation_steps)
        return seconds_per_step * (self.total_steps - step) + evaluations * self.evaluation_seconds


def format_seconds(seconds: float) -> str:
    """A duration for people: "74 s", "25 min", "3.5 hours"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


# before training


def part_of(batch: dict[str, Any], rows: int, width: int) -> dict[str, Any]:
    """The first `rows` rows of a batch, cut to `width` tokens, with their prediction targets."""
    names = {"input_ids", "labels", "sequence_ids", "position_ids"} & batch.keys()
    part = {name: batch[name][:rows, :width] for name in names}
    targets = (part["labels"].flatten() != -100).nonzero().flatten()
    part["positions"] = targets if len(targets) else torch.tensor([0])
    return part


def timed_step(module: MaskedLM, optimizer: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """(seconds of the forward and backward pass, seconds of the optimizer) of a step."""
    start = time.perf_counter()
    logits, labels = module.masked_logits(batch), masked_labels(batch)
    F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").backward()
    middle = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad()
    return middle - start, time.perf_counter() - middle


def fastest_step(module: MaskedLM, optimizer: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """What `timed_step` returns, the shortest of up to three steps: another program may slow one down."""
    steps = [timed_step(module, optimizer, batch)]
    while len(steps) < 3 and sum(map(sum, steps)) < ENOUGH_SECONDS / 2:
        steps.append(timed_step(module, optimizer, batch))
    forward_backward, optimization = zip(*steps)
    return min(forward_backward), min(optimization)


def step_seconds(module: MaskedLM, batch: dict[str, Any]) -> tuple[float, float]:
    """(seconds of the forward and backward pass of `batch`, seconds of the optimizer) on this CPU, estimated.

    A copy of the module makes steps with growing parts of the batch, until one takes ENOUGH_SECONDS. The
    time of the whole batch follows from the last two of them. Weights and random numbers stay as they are.
    """
    num_rows, width = batch["input_ids"].shape
    part_width, rows = min(width, LONG), 1
    trial = copy.deepcopy(module)
    optimizer = trial.configure_optimizers()["optimizer"]
    eager = torch.compiler.set_stance("force_eager")
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), eager:
        timed_step(trial, optimizer, part_of(batch, 1, SHORT))  # warm-up
        times = [(SHORT, fastest_step(trial, optimizer, part_of(batch, 1, min(width, SHORT))))]
        while True:
            part = part_of(batch, rows, part_width)
            times.append((rows * part_width, fastest_step(trial, optimizer, part)))
            if times[-1][1][0] > ENOUGH_SECONDS or rows == num_rows:
                break
            rows = min(2 * rows, num_rows)
    (fewer, (before, _)), (tokens, (seconds, optimizer_seconds)) = times[-2:]
    rest = num_rows * width - tokens
    if tokens > fewer and seconds > before:
        return seconds + rest * (seconds - before) / (tokens - fewer), optimizer_seconds
    return seconds * (1 + rest / tokens), optimizer_seconds


def forecast_training(
    module: MaskedLM,
    data: MaskedLMData,
    evaluations: int,
    device: dict[str, Any],
    steps_left: int | None = None,
) -> str:
    """How long an epoch and the training take, as text for people; what would be faster, if it is long.

    A few small steps are timed on a CPU, in a second or two for BERT-base. device: from
    `trainer_arguments`. steps_left: of a run that is resumed, 0 if it is finished; None: all. Raises
    NotebookError if the memory does not suffice for these steps.
    """
    steps_left = data.total_steps if steps_left is None else steps_left
    if not steps_left:
        return "The run in this folder is finished: there is nothing left to train."
    if device["kind"] != "cpu" or device["processes"] > 1:
        return "How long training takes is estimated while it runs, after 20 steps."
    batches = data.train_batches()
    batch = next(iter(batches))
    num_rows, width = batch["input_ids"].shape
    with explained_memory_errors(StepMemory.of(module.bert, data, module.matmul_dtype)):
        products, optimizer = step_seconds(module, batch)
    step = data.accumulate * products + optimizer
    per_step = data.batch_size * data.accumulate
    steps_per_epoch = math.ceil(data.train.examples_per_epoch / per_step)
    valid_tokens = sum(batch["input_ids"].numel() for batch in data.validation_batches())
    evaluation = products / 3 * valid_tokens / (num_rows * width)  # a forward pass
    evaluations = min(evaluations, data.total_steps)  # they come after steps
    evaluations_left = evaluations + 1  # one before training
    training = "the whole training"
    if steps_left < data.total_steps:
        evaluations_left = max(1, round(evaluations * steps_left / data.total_steps))
        training = f"the {steps_left:,} steps that are left"
    total = step * steps_left + evaluations_left * evaluation
    epoch = format_seconds(step * steps_per_epoch)
    text = (
        f"On this CPU, an epoch takes about {epoch} ({steps_per_epoch:,} steps of {step:.2g} s), and "
        f"{training} with {evaluations_left} evaluation{'s' * (evaluations_left > 1)} about {format_seconds(total)} (estimated from "
        "a few small steps)."
    )
    if total > LONG_TRAINING:
        text += (
            ' Faster: a GPU or a TPU, model="scratch:tiny", fewer lines, or a max_len below '
            f"{int(data.train.lengths.max()) + 2}, the longest example."
        )
    return text
