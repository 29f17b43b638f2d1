"""What is seen while a model trains, in a front end and in a job."""

import json
import os

import nbformat
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import ROOT

SMALL = dict(corpus="pydoc", model="scratch:tiny", max_steps=40, checkpoint_steps=10)


def seen(folder, monkeypatch, stop_at=None, **parameters):
    """Run 04 as a front end does, to its training cell; that cell's outputs as a person sees them."""
    monkeypatch.setenv("JPY_SESSION_NAME", "04_train.ipynb")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = parameterize_notebook(
        load_notebook_node(str(ROOT / "notebooks/04_train.ipynb")), {**SMALL, **parameters}
    )
    (last,) = [n for n, cell in enumerate(notebook.cells) if cell.get("id") == "train"]
    notebook.cells = notebook.cells[: last + 1]
    if stop_at:  # as *Interrupt* does at a step: the wish to stop is a file
        code = (
            "from mlm.training.progress import Bar\nreal = Bar.step\ndef step(self):\n    real(self)\n"
            f"    if self.bar.n == {stop_at}: (run.folder / 'stop').touch()\nBar.step = step"
        )
        notebook.cells.insert(last, nbformat.v4.new_code_cell(code))
    for cell in notebook.cells:
        cell.metadata.tags = [*cell.metadata.get("tags", []), "raises-exception"]
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook.cells[-1].outputs


def text_of(outputs):
    return "".join(o.get("text", "") for o in outputs if o.output_type == "stream")


@pytest.mark.slow
def test_a_front_end_sees_a_bar_that_knows_the_end_and_a_curve(tmp_path, monkeypatch):
    outputs = seen(tmp_path, monkeypatch)
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1  # redrawn in its place
    lines = text_of(outputs).split("\n")
    held_out = [line.split("\r")[-1] for line in lines if "held-out loss" in line]
    assert [line.split()[1] for line in held_out] == ["0", "10", "20", "30", "40"]
    assert all(line.startswith("step ") for line in held_out)  # on lines of their own
    last = next(line for line in reversed(lines) if "40/40" in line).split("\r")[-1]
    assert "training loss" in last
    assert "Epoch" not in text_of(outputs)


@pytest.mark.slow
def test_a_resumed_bar_goes_on_where_it_stopped(tmp_path, monkeypatch):
    stopped = seen(tmp_path, monkeypatch, stop_at=15)
    assert "run this cell and all below again" in json.dumps(stopped)
    resumed = text_of(seen(tmp_path, monkeypatch))
    assert "run: 15 of 40 steps are done" in resumed
    bars = [part for part in resumed.split("\r") if part.startswith("training:")]
    assert "15/40" in bars[0] and "40/40" in bars[-1]


@pytest.mark.slow
def test_tensorboard_shows_a_resumed_run_as_one_curve_beside_the_baseline(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    seen(tmp_path, monkeypatch, stop_at=15)
    seen(tmp_path, monkeypatch)
    board = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "bert-mlm"))
    board.Reload()
    curves = {name: board.Scalars(name, "valid_loss") for name in board.Runs()}
    assert sorted(curves) == [
        os.path.join("run", "logs", "tensorboard"),
        os.path.join("run", "logs", "tensorboard", "unigram baseline"),
    ]
    own, baseline = (curves[name] for name in sorted(curves))
    assert [event.step for event in own] == [0, 10, 20, 30, 40]
    assert len({event.value for event in baseline}) == 1
    assert {event.step for event in baseline} == {0, 40}
