"""What is seen while a model trains: a bar and a growing curve for people, lines for jobs."""

import os
import sys
import time

from .pictures import curve_image


def watched():
    """Whether a person looks on (a notebook's front end), not a job."""
    fronts = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID")
    return any(name in os.environ for name in fronts)


def figures_line(step, row):
    """A log line for people."""
    return f"step {step:>6}  " + "  ".join(f"{name} {value:.4g}" for name, value in row.items())


class Lines:
    """For jobs: every log line and every measurement is printed."""

    def start(self, done, total, baseline):
        """Training begins at step `done` of `total`; `baseline` is the unigram loss in nats."""

    def step(self):
        """One more step is done."""

    def row(self, history):
        """The last row of the history is new."""
        row = dict(history[-1])
        print(figures_line(row.pop("step"), row), flush=True)

    def end(self):
        """Training ends, or stops."""


class Bar(Lines):
    """For people: a bar that knows the end, the last training loss in it, and the curve so far.

    Measurements are lines above the bar. The curve needs the notebook's own process: in forks, which
    can only print, there is none.
    """

    every = 3.0  # seconds between two curves

    def __init__(self):
        self.notebook = os.getpid()

    def start(self, done, total, baseline):
        from tqdm import tqdm

        self.picture, self.drawn, self.baseline = None, 0.0, baseline
        self.bar = tqdm(
            total=total,
            initial=done,
            desc="training",
            unit="step",
            file=sys.stdout,
            mininterval=0.5,
        )

    def step(self):
        self.bar.update()

    def row(self, history):
        row = dict(history[-1])
        if "valid_loss" in row:
            self.bar.write(figures_line(row.pop("step"), row), file=sys.stdout)
        else:
            self.bar.set_postfix_str(f"training loss {row['train_loss']:.3f}")
        late = time.monotonic() - self.drawn > self.every
        if os.getpid() == self.notebook and (late or "valid_loss" in row):
            self.draw(history)

    def draw(self, history):
        """Show the curve, in place of the one before."""
        from IPython.display import display

        image = curve_image(history, self.baseline)
        if self.picture:
            self.picture.update(image)
        else:
            self.picture = display(image, display_id=True)
        self.drawn = time.monotonic()

    def end(self):
        self.bar.close()
