"""What is shown during training: a bar and a learning curve in a notebook, lines in a job."""

import os
import sys
import time
from typing import Any

from mlm.plots.training import curve_image

FRONT_ENDS = "JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID"  # set by Jupyter, Colab, VS Code
CURVE_SECONDS = 3.0  # the curve is drawn at most this often, except after an evaluation


def is_interactive() -> bool:
    """Whether a person watches (in a notebook front end); otherwise this is a job."""
    return any(name in os.environ for name in FRONT_ENDS)


def format_row(row: dict[str, Any]) -> str:
    """A row of the history as one line of text."""
    if "valid_loss" in row:
        metrics = (
            f"validation loss {row['valid_loss']:.2f}, perplexity {row['valid_perplexity']:,.1f}, "
            f"accuracy {row['valid_accuracy']:.1%}"
        )
    else:
        metrics = f"training loss {row['train_loss']:.2f}, lr {row['lr']:.1e}"
        if "tokens_per_second" in row:
            metrics += f", {row['tokens_per_second']:,.0f} tokens/s"
    return f"step {row['step']:>6}  {metrics}"


class ProgressLines:
    """Progress for jobs: each log line and each evaluation is printed."""

    def start(
        self, step: int, total_steps: int, history: list[dict[str, Any]], baseline: float
    ) -> None:
        """Training begins after `step` of `total_steps`; `baseline` is the unigram loss in nats."""
        self.began, self.first_step, self.total_steps = time.monotonic(), step, total_steps
        self.is_warm = False  # the first evaluation and the first steps take longer than later ones

    def time_left(self, step: int) -> str:
        """The estimated rest of the training time, as the end of a line; "" if there is no estimate."""
        if not self.first_step < step < self.total_steps:
            return ""
        seconds_per_step = (time.monotonic() - self.began) / (step - self.first_step)
        seconds = seconds_per_step * (self.total_steps - step)
        return f", about {f'{seconds / 60:.0f} min' if seconds > 100 else f'{seconds:.0f} s'} left"

    def step(self) -> None:
        """Another step is done."""

    def row(self, history: list[dict[str, Any]]) -> None:
        """The history has a new last row."""
        row = history[-1]
        left = self.time_left(row["step"]) if "train_loss" in row else ""
        print(format_row(row) + left, flush=True)
        if not self.is_warm:  # later estimates leave out the time until now
            self.began, self.first_step = time.monotonic(), row["step"]
            self.is_warm = "train_loss" in row

    def end(self) -> None:
        """Training ends or stops."""


class ProgressBar(ProgressLines):
    """Progress for people: a bar with the last training loss, and the learning curve so far.

    Evaluations are lines above the bar. Only the notebook's process can display the curve; forked
    processes can only print.
    """

    def __init__(self) -> None:
        self.notebook_process = os.getpid()

    def start(
        self, step: int, total_steps: int, history: list[dict[str, Any]], baseline: float
    ) -> None:
        from tqdm import tqdm

        self.display: Any = None
        self.baseline = baseline
        self.draw(history)  # before the bar, so that it is shown above it
        self.bar = tqdm(
            total=total_steps,
            initial=step,
            desc="training",
            unit="step",
            file=sys.stdout,
            mininterval=0.5,
        )

    def step(self) -> None:
        self.bar.update()

    def row(self, history: list[dict[str, Any]]) -> None:
        row = history[-1]
        if "valid_loss" in row:
            self.bar.write(format_row(row), file=sys.stdout)
        else:
            self.bar.set_postfix_str(f"training loss {row['train_loss']:.2f}")
        if time.monotonic() - self.drawn > CURVE_SECONDS or "valid_loss" in row:
            self.draw(history)

    def draw(self, history: list[dict[str, Any]]) -> None:
        """Display the learning curve in place of the last one."""
        from IPython.display import display

        self.drawn = time.monotonic()
        if os.getpid() != self.notebook_process:
            return
        image = curve_image(history, self.baseline)
        if self.display:
            self.display.update(image)
        else:
            self.display = display(image, display_id=True)

    def end(self) -> None:
        self.bar.close()
