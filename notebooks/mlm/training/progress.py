"""What is shown during training: a bar and a learning curve in a notebook, lines in a job."""

import os
import sys
import time
from typing import Any

from mlm.plots.training import curve_image
from mlm.training.forecast import format_seconds

FRONT_ENDS = "JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID"  # set by Jupyter, Colab, VS Code
BAR_FORMAT = (  # tqdm's without its own estimate of the time left, which knows no evaluations
    "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
)
CURVE_SECONDS = 3.0  # the curve is drawn at most this often, except after an evaluation


def is_interactive() -> bool:
    """Whether a person watches (in a notebook front end); otherwise this is a job."""
    return any(name in os.environ for name in FRONT_ENDS)


def format_row(row: dict[str, Any]) -> str:
    """A row of the history as one line of text."""
    if "valid_loss" in row:
        form = ",.1f" if row["valid_perplexity"] < 1e9 else ".1e"  # after divergence: no 100 digits
        metrics = (
            f"validation loss {row['valid_loss']:.2f}, perplexity {row['valid_perplexity']:{form}}, "
            f"accuracy {row['valid_accuracy']:.1%}"
        )
    else:
        metrics = f"training loss {row['train_loss']:.2f}, lr {row['lr']:.1e}"
        if "tokens_per_second" in row:
            metrics += f", {row['tokens_per_second']:,.0f} tokens/s"
    return f"step {row['step']:>6}  {metrics}"


def format_left(seconds: float | None) -> str:
    """The estimated rest of the training time, as the end of a line; "" if there is no estimate."""
    return f", about {format_seconds(seconds)} left" if seconds else ""


class ProgressLines:
    """Progress for jobs: each log line and each evaluation is printed."""

    def start(
        self, step: int, total_steps: int, history: list[dict[str, Any]], baseline: float
    ) -> None:
        """Training begins after `step` of `total_steps`; `baseline` is the unigram loss in nats."""

    def step(self) -> None:
        """Another step is done."""

    def row(self, history: list[dict[str, Any]], seconds_left: float | None = None) -> None:
        """The history has a new last row; training takes another `seconds_left` (None: unknown)."""
        print(format_row(history[-1]) + format_left(seconds_left), flush=True)

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
            bar_format=BAR_FORMAT,
        )

    def step(self) -> None:
        self.bar.update()

    def row(self, history: list[dict[str, Any]], seconds_left: float | None = None) -> None:
        row = history[-1]
        if "valid_loss" in row:
            self.bar.write(format_row(row), file=sys.stdout)
        else:
            left = format_left(seconds_left)
            self.bar.set_postfix_str(f"training loss {row['train_loss']:.2f}{left}")
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
