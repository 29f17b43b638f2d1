"""What is seen while a model trains: a bar and a growing curve for people, lines for jobs."""

import os
import sys
import time

from mlm.plots.figures import curve_image


def is_interactive():
    """Whether a person looks on (a notebook's front end), not a job."""
    fronts = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID")
    return any(name in os.environ for name in fronts)


def format_row(row):
    """A row of the journal for people."""
    if "valid_loss" in row:
        figures = (
            f"held-out loss {row['valid_loss']:.4f}, perplexity {row['valid_perplexity']:,.1f}, "
            f"accuracy {row['valid_accuracy']:.1%}"
        )
    else:
        figures = f"training loss {row['train_loss']:.4f}, lr {row['lr']:.2e}"
        if "tokens_per_second" in row:
            figures += f", {row['tokens_per_second']:,.0f} tokens/s"
    return f"step {row['step']:>6}  {figures}"


class ProgressLines:
    """For jobs: every log line and every measurement is printed."""

    def start(self, done, total, history, baseline):
        """Training begins at step `done` of `total`; `baseline` is the unigram loss in nats."""
        self.began, self.done, self.total = time.monotonic(), done, total

    def left(self, step):
        """How long the rest will take if it goes on as until now, in words; "" where there is none."""
        if not self.done < step < self.total:
            return ""
        seconds = (time.monotonic() - self.began) / (step - self.done) * (self.total - step)
        return f", about {f'{seconds / 60:.0f} min' if seconds > 100 else f'{seconds:.0f} s'} left"

    def step(self):
        """One more step is done."""

    def row(self, history):
        """The last row of the history is new."""
        row = history[-1]
        left = self.left(row["step"]) if "train_loss" in row else ""
        print(format_row(row) + left, flush=True)

    def end(self):
        """Training ends, or stops."""


class ProgressBar(ProgressLines):
    """For people: a bar that knows the end, the last training loss in it, and the curve so far.

    Measurements are lines above the bar. The curve needs the notebook's own process: in forks, which
    can only print, there is none.
    """

    every = 3.0  # seconds between two curves

    def __init__(self):
        self.notebook = os.getpid()

    def start(self, done, total, history, baseline):
        from tqdm import tqdm

        self.picture, self.baseline = None, baseline
        self.draw(history)  # first of all, so that it stands above the bar
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
        row = history[-1]
        if "valid_loss" in row:
            self.bar.write(format_row(row), file=sys.stdout)
        else:
            self.bar.set_postfix_str(f"training loss {row['train_loss']:.3f}")
        if time.monotonic() - self.drawn > self.every or "valid_loss" in row:
            self.draw(history)

    def draw(self, history):
        """Show the curve, in place of the one before."""
        from IPython.display import display

        self.drawn = time.monotonic()
        if os.getpid() != self.notebook:
            return
        image = curve_image(history, self.baseline)
        if self.picture:
            self.picture.update(image)
        else:
            self.picture = display(image, display_id=True)

    def end(self):
        self.bar.close()
