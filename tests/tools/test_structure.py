"""The form that every notebook must have."""

from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

import notebooks
import structure
from small_notebooks import code_cell, write_notebook

PARAMETERS = 'epochs: int = 1  # times through the corpus\nname: str = "run"  # its folder'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


def write_correct(*extra: NotebookNode) -> Path:
    """A notebook in the right form, except for these cells at its end; its path."""
    cells = [
        new_markdown_cell("# Title", id="title"),
        code_cell(PARAMETERS, "parameters", "parameters"),
        code_cell("EMBEDDED = {}\n" * 100, "library"),
        code_cell('check_parameters(globals(), "correct")', "check"),
        *extra,
    ]
    cells[2].metadata.jupyter = {"source_hidden": True}
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    return write_notebook(Path("correct.ipynb"), *cells)


def change(path: Path, **sources: str) -> None:
    """Give cells of a notebook another source."""
    notebook = notebooks.read(path)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id, cell.source)
    notebooks.write(notebook, path)


def test_a_correct_notebook_passes(capsys):
    not_paths = "'a/tmp/b', 'http://host/tmp/x'"
    write_correct(code_cell(not_paths, "x", outputs=[new_output("stream", text="12")]))
    assert structure.main(["correct.ipynb"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "cell, problem",
    [
        (code_cell("  ", "x"), "is empty"),
        (code_cell("1", "b7d20c1e"), "has a random id"),
        (code_cell("open('/tmp/x')", "x"), "contains a path of one machine: /tmp/x"),
        (
            code_cell("1", "x", outputs=[new_output("stream", text="in /root/y\n")]),
            "contains a path of one machine: /root/y",
        ),
        (
            code_cell("1 / 0", "x", outputs=[new_output("error", ename="E", evalue="")]),
            "stores an error",
        ),
        (code_cell("1", "x", "nbval-check-ouput"), "has unknown tags ['nbval-check-ouput']"),
        (code_cell("1", "x", "nbval-check-output"), "has the tag nbval-check-output but stores no"),
        (
            new_code_cell("1", id="x", metadata={"collapsed": True}),
            "has metadata ['collapsed']",
        ),
    ],
)
def test_a_problem_of_a_cell_is_found(cell, problem):
    found = structure.problems(write_correct(cell))
    assert any(line.startswith(f"correct.ipynb: {cell.id}: {problem}") for line in found), found


@pytest.mark.parametrize(
    "source, problem",
    [
        ("epochs = 1  # how often", "must be `name: type = value"),
        ("print(1)", "must be `name: type = value"),
        ("epochs: int = 1", "epochs needs a comment"),
        ("epochs: int | None = 1  # how often", "papermill cannot read 'epochs: int | None"),
        ("name: str = 'a#b'  # meaning", "papermill cannot read"),
    ],
)
def test_a_problem_of_the_parameters_is_found(source, problem):
    change(write_correct(), parameters=source)
    (line,) = structure.problems("correct.ipynb")
    assert line.startswith("correct.ipynb: parameters: ") and problem in line


def test_problems_of_a_whole_notebook_are_found():
    write_notebook(Path("a.ipynb"), new_markdown_cell("# A", id="title"), code_cell("1", "one"))
    found = "\n".join(structure.problems("a.ipynb"))
    assert "must have the tag parameters" in found
    assert "the stored outputs are not from one run" in found
    notebook = notebooks.read(write_correct())
    notebook.metadata.papermill = {}
    notebooks.write(notebook, "correct.ipynb")
    change(Path("correct.ipynb"), title="Title", check="x = 1")
    found = "\n".join(structure.problems("correct.ipynb"))
    for problem in (
        "has metadata ['papermill']",
        "must begin with a title",
        "must be followed by the library cell and a cell that calls check_parameters",
    ):
        assert problem in found
    notebook.metadata = {}
    notebooks.write(notebook, "correct.ipynb")
    (line,) = structure.problems("correct.ipynb")
    assert "kernelspec must be python3" in line


def test_long_notebooks_and_cells_pass():
    """Lengths are reported by `make figures`, not limited."""
    cells = [code_cell("pass\n" * 100, f"x-{number}") for number in range(9)]
    assert structure.problems(write_correct(*cells)) == []


def test_the_committed_notebooks_have_the_right_form(capsys):
    assert structure.main([]) == 0, capsys.readouterr().out
