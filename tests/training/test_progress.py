"""What is shown during training: lines in a job, a bar and one learning curve in a notebook."""

import json
import re

import IPython.display
import nbformat
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import ROOT
from mlm.training.progress import ProgressBar, ProgressLines, format_row, is_interactive

TRAINING = {"step": 50, "train_loss": 7.6423, "lr": 6.8e-4, "gradient_norm": 1.2}
EVALUATION = {
    "step": 50, "valid_loss": 6.1234, "valid_perplexity": 1234.5, "valid_accuracy": 0.0512,
}  # fmt: skip


def test_rows_are_rounded_for_people():
    assert format_row(TRAINING) == "step     50  training loss 7.64, lr 6.8e-04"
    assert format_row(TRAINING | {"tokens_per_second": 2345.6}).endswith(", 2,346 tokens/s")
    expected = "step     50  validation loss 6.12, perplexity 1,234.5, accuracy 5.1%"
    assert "perplexity 7.8e+100," in format_row(EVALUATION | {"valid_perplexity": 7.76e100})
    assert format_row(EVALUATION) == expected


@pytest.mark.parametrize("name", ["JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID"])
def test_a_notebook_front_end_is_recognized(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(name, "1")
    assert is_interactive()


def test_lines_end_with_the_time_left(capsys):
    lines = ProgressLines()
    for seconds in (None, 99.4, 101, 4000, 7200):
        lines.row([TRAINING], seconds)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("about ")[2] for line in printed] == [
        "", "99 s left", "2 min left", "67 min left", "2.0 hours left",
    ]  # fmt: skip


def test_the_bar_redraws_one_curve_and_shows_evaluations_on_lines_of_their_own(monkeypatch, capsys):
    updates = []

    class Display:
        def update(self, image):
            updates.append(image)

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *a, **_: shown.append(a) or Display())
    bar = ProgressBar()
    bar.start(15, 40, [], 5.0)
    bar.row([TRAINING], 42.0)
    bar.row([TRAINING, EVALUATION])
    bar.step()
    bar.end()
    assert len(shown) == len(updates) == 1  # an evaluation redraws the curve in its place
    parts = re.split("[\r\n]", capsys.readouterr().out)
    assert any(part.startswith("training:") and "15/40" in part for part in parts)
    assert format_row(EVALUATION) in parts
    assert "16/40" in parts[-2] and "training loss 7.64, about 42 s left" in parts[-2]
    assert "?" not in parts[-2] and "<" not in parts[-2]  # no second estimate, tqdm's


# a real front end

INTERRUPT = """
from mlm.training.failures import request_stop
from mlm.training.progress import ProgressBar

original_step = ProgressBar.step

def step(self):
    original_step(self)
    if self.bar.n == 8:
        request_stop(run.folder)

ProgressBar.step = step
"""


def text_of(outputs):
    return "".join(o.get("text", "") for o in outputs if o.output_type == "stream")


@pytest.mark.slow
def test_a_notebook_shows_a_bar_and_a_curve_and_continues_them_when_training_is_resumed(
    tmp_path, monkeypatch
):
    """The training cell of 04 is stopped at step 8 of 20 and then run again."""
    monkeypatch.setenv("JPY_SESSION_NAME", "04_train.ipynb")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parameters = dict(corpus="pydoc", model="scratch:tiny", batch_size=8, max_steps=20)
    notebook = load_notebook_node(str(ROOT / "notebooks/04_train.ipynb"))
    notebook = parameterize_notebook(notebook, parameters)
    (last,) = [n for n, cell in enumerate(notebook.cells) if cell.get("id") == "train"]
    train = notebook.cells[last].source
    before = [cell for cell in notebook.cells[:last] if cell.cell_type == "code"]
    added = [nbformat.v4.new_code_cell(source) for source in (INTERRUPT, train, train)]
    notebook.cells = [*before, *added]
    added[1].metadata.tags = ["raises-exception"]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    stopped, resumed = (cell.outputs for cell in notebook.cells[-2:])

    for outputs, steps in ((stopped, ["0", "5"]), (resumed, ["10", "15", "20"])):
        pictures = [o for o in outputs if "image/png" in o.get("data", {})]
        assert len(pictures) == 1  # redrawn in its place
        lines = [line.split("\r")[-1] for line in text_of(outputs).split("\n")]
        evaluations = [line for line in lines if "validation loss" in line]
        assert [line.split()[1] for line in evaluations] == steps
        assert all(line.startswith("step ") for line in evaluations)  # on lines of their own
        assert "Epoch" not in text_of(outputs)
    assert "stopped at step 8 of 20, saved: to resume, run this cell" in json.dumps(stopped)
    assert "run: 8 of 20 steps are done" in text_of(resumed)
    bars = [part for part in text_of(resumed).split("\r") if part.startswith("training:")]
    assert "8/20" in bars[0] and "20/20" in bars[-1] and "training loss" in bars[-1]
