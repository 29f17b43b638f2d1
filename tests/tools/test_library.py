"""The library inside the notebooks: equal, carried both ways, and brought to life where one is alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import library
import notebooks

MASK = "def mask(token):\n    return 'M'"
MODULES = {
    "__init__": '"""A library.\n\nnotebook  first\nmasks     second\n"""\n',
    "notebook": "WORD = 'naïve \\\\n \"quoted\"'\n",
    "masks": f'"""Masks."""\n\nfrom .notebook import WORD\n\n\n{MASK}\n\n\ndef other():\n    return WORD\n',
}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A library and two notebooks, one of which quotes `mask`; the folder of both."""
    folder = tmp_path / "notebooks"
    (folder / "mlm").mkdir(parents=True)
    for name, text in MODULES.items():
        (folder / "mlm" / f"{name}.py").write_text(text, encoding="utf-8")
    paths = [folder / "1_a.ipynb", folder / "2_b.ipynb"]
    monkeypatch.setattr(library, "LIBRARY", folder / "mlm")
    monkeypatch.setattr(library, "all_notebooks", lambda: paths)
    monkeypatch.setattr(library, "parameters_cell", lambda stem: f"name: str = '{stem}'")
    for path in paths:
        quote = [new_code_cell(f"import re\n\n\n{MASK}\n\n\nmask(1)", id="quote")]
        cells = [
            new_markdown_cell("# Title", id="title"),
            new_code_cell("x", id="parameters", metadata={"tags": ["parameters"]}),
            *(quote if path == paths[0] else []),
        ]
        notebooks.write(new_notebook(cells=cells), path)
    assert library.main(["fix"]) == 0
    return folder


def source(suite, name, id):
    (cell,) = [c for c in notebooks.read(suite / f"{name}.ipynb").cells if c.id == id]
    return cell.source


def edit_quote(suite, old, new):
    notebook = notebooks.read(suite / "1_a.ipynb")
    for cell in notebook.cells:
        if cell.id == "quote":
            cell.source = cell.source.replace(old, new)
    notebooks.write(notebook, suite / "1_a.ipynb")


def edit_library(suite, old, new):
    path = suite / "mlm" / "masks.py"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def contents(suite):
    return {path: path.read_bytes() for path in suite.rglob("*") if path.is_file()}


def test_fixed_notebooks_pass_and_a_second_fix_writes_nothing(suite, capsys):
    before = contents(suite)
    capsys.readouterr()
    assert library.main(["check"]) == library.main(["fix"]) == 0
    assert capsys.readouterr().out == "" and contents(suite) == before


def test_what_is_carried_is_the_library_a_module_a_line(suite):
    text = source(suite, "2_b", "library")
    assert library.carried_texts(text) == MODULES
    lines = text.split("CARRIED = {\n")[1].split("\n}\n")[0].splitlines()
    assert [line.split(":")[0].strip(" '\"") for line in lines] == list(MODULES)
    assert source(suite, "2_b", "parameters") == "name: str = '2_b'"


def test_an_edit_of_the_library_reaches_all_notebooks(suite, capsys):
    edit_library(suite, "'M'", "'W'")
    assert library.main(["check"]) == 1
    out = capsys.readouterr().out
    assert "1_a.ipynb: quote: mask differs from mlm/masks.py: make fix" in out
    assert library.main(["fix"]) == library.main(["check"]) == 0
    assert "return 'W'" in source(suite, "1_a", "quote")
    assert "return 'W'" in library.carried_texts(source(suite, "2_b", "library"))["masks"]


def test_an_edit_of_a_quote_reaches_the_library_and_all_notebooks(suite):
    edit_quote(suite, "return 'M'", "return 'Q'  # better")
    assert library.main(["check"]) == 1
    assert library.main(["fix"]) == library.main(["check"]) == 0
    text = (suite / "mlm/masks.py").read_text("utf-8")
    assert text == MODULES["masks"].replace("return 'M'", "return 'Q'  # better")
    assert library.carried_texts(source(suite, "2_b", "library"))["masks"] == text


@pytest.mark.parametrize("keep, wins", [("library", "'L'"), ("notebook", "'N'")])
def test_two_edits_wait_for_a_choice(suite, capsys, keep, wins):
    edit_library(suite, "'M'", "'L'")
    edit_quote(suite, "'M'", "'N'")
    before = {path: text for path, text in contents(suite).items() if path.name != "2_b.ipynb"}
    assert library.main(["fix"]) == 1
    assert "was edited here and in mlm/masks.py: choose one" in capsys.readouterr().out
    assert contents(suite).items() >= before.items()
    assert library.main(["fix", "--keep", keep]) == library.main(["check"]) == 0
    assert wins in source(suite, "1_a", "quote") and wins in (suite / "mlm/masks.py").read_text()


def test_a_cell_edited_by_hand_is_written_anew(suite, capsys):
    for id in ("library", "parameters"):
        notebook = notebooks.read(suite / "2_b.ipynb")
        for cell in notebook.cells:
            cell.source += " # edited" if cell.id == id else ""
        notebooks.write(notebook, suite / "2_b.ipynb")
        assert library.main(["check"]) == 1
        assert f"2_b.ipynb: its {id} cell is not the library's" in capsys.readouterr().out
        assert library.main(["fix"]) == library.main(["check"]) == 0


def test_the_suite_itself_is_whole(capsys):
    assert library.main(["check"]) == 0, capsys.readouterr().out


# brought to life


def bring(suite, folder, program="", environment=None):
    """Run a notebook's library cell, then a program, in a process in `folder`; what it printed."""
    (folder / "cell.py").write_text(source(suite, "2_b", "library") + "\n" + program)
    done = subprocess.run(
        [sys.executable, "-c", "exec(open('cell.py').read())"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "cell.py").unlink()
    return done.stdout.splitlines()


USE = "from mlm.masks import mask, other\nprint(mask(1), other())\n"


def test_alone_it_is_carried_and_leaves_no_litter(suite, tmp_path):
    alone, scratch = tmp_path / "alone", tmp_path / "scratch"
    alone.mkdir(), scratch.mkdir()
    said, used = bring(suite, alone, USE, {"TMPDIR": str(scratch)})
    assert said == "mlm: as carried in this cell" and used == 'M naïve \\n "quoted"'
    assert not list(alone.iterdir()) and not list(scratch.iterdir())


def test_a_folder_beside_it_is_used_and_what_differs_is_said(suite):
    assert bring(suite, suite, USE)[0] == "mlm: the folder beside this notebook"
    edit_library(suite, "'M'", "'E'")
    said, used = bring(suite, suite, USE)
    assert said.endswith("which differs from this cell's in masks") and used[0] == "E"


def test_somebody_elses_mlm_is_left_alone(suite, tmp_path):
    alone = tmp_path / "alone"
    (alone / "mlm").mkdir(parents=True)
    (alone / "mlm" / "__init__.py").write_text("raise SystemExit('not ours')")
    assert bring(suite, alone, USE)[1][0] == "M"


def test_on_colab_it_is_laid_beside_the_notebook_and_edits_stay(suite, tmp_path):
    colab = {"COLAB_RELEASE_TAG": "release"}
    alone = tmp_path / "alone"
    alone.mkdir()
    bring(suite, alone, USE, colab)
    path = alone / "mlm" / "masks.py"
    assert path.read_text("utf-8") == MODULES["masks"]
    path.write_text(path.read_text("utf-8").replace("'M'", "'mine'"), "utf-8")
    said, used = bring(suite, alone, USE, colab)
    assert "differs from this cell's in masks" in said and used.startswith("mine")


def test_a_second_run_in_one_kernel_reads_an_edit(suite):
    again = f"""
import time
from mlm.masks import mask
first = mask
bring_library(CARRIED)
from mlm.masks import mask
print("unchanged, the same:", mask is first)
text = Path("mlm/masks.py").read_text()
Path("mlm/masks.py").write_text(text.replace("'M'", "'edited'"))
bring_library(CARRIED)
{USE}"""
    lines = bring(suite, suite, again)
    assert lines[2] == "unchanged, the same: True" and lines[-1].startswith("edited")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_that_it_starts_have_it_too(suite, tmp_path, method):
    alone = tmp_path / "alone"
    alone.mkdir()
    program = f"""
import multiprocessing
from mlm.masks import mask
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(mask, [1, 2]))
"""
    assert bring(suite, alone, program)[1] == "['M', 'M']"


def test_source_is_there_to_be_shown(suite, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    show = "import inspect\nfrom mlm.masks import mask\nprint(inspect.getsource(mask))"
    assert "\n".join(bring(suite, alone, show)[1:3]) == MASK


def test_each_notebook_carries_the_same_cell():
    cells = [
        (cell.source, cell.metadata)
        for path in notebooks.all_notebooks()
        for cell in nbformat.read(path, 4).cells
        if cell.id == library.CELL_ID
    ]
    assert len(cells) == 6 and all(cell == cells[0] for cell in cells)
    assert cells[0][1]["cellView"] == "form" and cells[0][1]["jupyter"]["source_hidden"]
    code = cells[0][0].split("# fmt: on")[-1]
    assert len(code.splitlines()) + len(list(Path(library.LIBRARY).glob("*.py"))) < 75


def test_imports_run_one_way_and_no_file_is_long():
    """As text flows: no file imports one that stands after it in the list of __init__."""
    texts = library.library_texts()
    order = re.findall(r"^(\w+)  +\S", texts["__init__"], re.M)
    assert {*order, "__init__"} == texts.keys()
    for number, name in enumerate(order):
        imported = re.findall(r"^\s*from \.(\w+) import", texts[name], re.M)
        assert {*imported} <= {*order[:number]}, name
        assert len(texts[name].splitlines()) <= 320, name
