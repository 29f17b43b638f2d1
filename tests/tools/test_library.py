"""Notebooks and library in step: one-way synchronization, and the library cell in a notebook that runs alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import library
import modules
import notebooks

MASK = "def mask(token):\n    return 'M'"
MODULES = {
    "__init__.py": '"""A library.\n\nenv   first\ndata  second\n"""\n',
    "data/__init__.py": '"""A text.\n\nmasking  masks\n"""\n',
    "data/masking.py": f'"""Masks."""\n\nfrom mlm.env.words import WORD\n\n\n{MASK}\n\n\ndef other():\n    return WORD\n',
    "env/__init__.py": '"""Where it runs.\n\nwords   a word\nunused  nothing\n"""\n',
    "env/unused.py": "NOTHING = None\n",
    "env/words.py": "WORD = 'naïve \\\\n \"quoted\"'\n",
}
USED = {name: text for name, text in MODULES.items() if name != "env/unused.py"}
IMPORT = "from mlm.data.masking import mask, other"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a library and two notebooks. The first quotes `mask`, the second imports it."""
    folder = tmp_path / "notebooks"
    for name, text in MODULES.items():
        path = folder / "mlm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    paths = [folder / "1_a.ipynb", folder / "2_b.ipynb"]
    monkeypatch.setattr(modules, "LIBRARY", folder / "mlm")
    monkeypatch.setattr(library, "all_notebooks", lambda: paths)
    monkeypatch.setattr(library, "parameters_cell", lambda stem: f"name: str = '{stem}'")
    last = [f"import re\n\n\n{MASK}\n\n\nmask(1)", f"def f():\n    {IMPORT}"]
    for path, source in zip(paths, last):
        cells = [
            new_markdown_cell("# Title", id="title"),
            new_code_cell("x", id="parameters", metadata={"tags": ["parameters"]}),
            new_code_cell(source, id="last"),
        ]
        notebooks.write(new_notebook(cells=cells), path)
    assert library.main(["fix"]) == 0
    return folder


def cell_of(suite: Path, name: str, id: str) -> NotebookNode:
    """A cell of a notebook."""
    (cell,) = [c for c in notebooks.read(suite / f"{name}.ipynb").cells if c.id == id]
    return cell


def edit_cell(suite: Path, name: str, id: str, old: str, new: str) -> None:
    """Replace text in a cell of a notebook."""
    notebook = notebooks.read(suite / f"{name}.ipynb")
    for cell in notebook.cells:
        if cell.id == id:
            cell.source = cell.source.replace(old, new)
    notebooks.write(notebook, suite / f"{name}.ipynb")


def edit_library(suite: Path, old: str, new: str) -> None:
    """Replace text in mlm/data/masking.py."""
    path = suite / "mlm" / "data" / "masking.py"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def contents(suite: Path) -> dict[Path, bytes]:
    """{path: content} of all files."""
    return {path: path.read_bytes() for path in suite.rglob("*") if path.is_file()}


# synchronization


def test_fixed_notebooks_pass_and_a_second_fix_writes_nothing(suite, capsys):
    before = contents(suite)
    capsys.readouterr()
    assert library.main(["check"]) == library.main(["fix"]) == 0
    assert capsys.readouterr().out == "" and contents(suite) == before


def test_a_notebook_embeds_what_it_imports_one_module_per_line(suite):
    source = cell_of(suite, "2_b", "library").source
    assert library.embedded_texts(source) == USED
    lines = source.split("EMBEDDED = {\n")[1].split("\n}\n")[0].splitlines()
    assert [line.split(":")[0].strip(" '") for line in lines] == list(USED)
    only_init = {"__init__.py": MODULES["__init__.py"]}  # 1_a imports nothing
    assert library.embedded_texts(cell_of(suite, "1_a", "library").source) == only_init
    assert library.embedded_size(notebooks.read(suite / "1_a.ipynb")) == len(
        only_init["__init__.py"]
    )


def test_the_parameters_come_from_the_library(suite, capsys):
    assert cell_of(suite, "2_b", "parameters").source == "name: str = '2_b'"


def test_an_edit_of_the_library_reaches_all_notebooks(suite, capsys):
    edit_library(suite, "'M'", "'W'")
    assert library.main(["check"]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "1_a.ipynb: the cell 'last' differs from notebooks/mlm/: make fix",
        "2_b.ipynb: the cell 'library' differs from notebooks/mlm/: make fix",
    ]
    assert library.main(["fix"]) == library.main(["check"]) == 0
    assert "return 'W'" in cell_of(suite, "1_a", "last").source
    texts = library.embedded_texts(cell_of(suite, "2_b", "library").source)
    assert "return 'W'" in texts["data/masking.py"]


@pytest.mark.parametrize("id, old", [("last", "'M'"), ("library", "def"), ("parameters", "name")])
def test_an_edit_of_a_notebook_is_overwritten_and_never_reaches_the_library(suite, capsys, id, old):
    before = contents(suite)
    edit_cell(suite, "1_a", id, old, "edited")
    assert library.main(["check"]) == 1
    assert f"1_a.ipynb: the cell {id!r} differs from" in capsys.readouterr().out
    assert library.main(["fix"]) == library.main(["check"]) == 0
    assert contents(suite) == before


def test_the_rest_of_a_cell_with_a_quote_is_kept(suite):
    edit_cell(suite, "1_a", "last", "mask(1)", "mask(2)  # mine")
    assert library.main(["check"]) == library.main(["fix"]) == 0
    assert cell_of(suite, "1_a", "last").source.endswith("mask(2)  # mine")


def test_a_quote_that_two_modules_define_is_refused(suite):
    (suite / "mlm/env/unused.py").write_text(MASK)
    with pytest.raises(SystemExit, match=r"mask is a quote, but data/masking.py and env/unused.py"):
        library.main(["check"])


def test_an_import_of_a_missing_module_is_refused(suite):
    edit_cell(suite, "2_b", "last", "mlm.data.masking", "mlm.data.masks")
    with pytest.raises(SystemExit, match=r"notebooks/mlm/data/masks.py does not exist"):
        library.main(["fix"])


def test_a_notebook_without_a_library_cell_gets_one(suite):
    path = suite / "2_b.ipynb"
    notebook = notebooks.read(path)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "library"]
    before = path.read_bytes()
    notebooks.write(notebook, path)
    assert library.main(["fix", str(path)]) == 0
    assert path.read_bytes() == before


def test_the_committed_notebooks_are_in_step(capsys):
    assert library.main(["check"]) == 0, capsys.readouterr().out


def test_library_cells_of_the_committed_notebooks_differ_only_in_their_modules():
    cells = [
        cell
        for path in notebooks.all_notebooks()
        for cell in notebooks.read(path).cells
        if cell.id == notebooks.LIBRARY_CELL
    ]
    assert len(cells) == len(notebooks.all_notebooks())
    frames = {re.sub(r"EMBEDDED = {\n.*\n}\n", "", cell.source, flags=re.S) for cell in cells}
    assert len(frames) == 1 and len(frames.pop().splitlines()) < 60
    assert all(notebooks.is_hidden(cell) and cell.metadata["cellView"] == "form" for cell in cells)


# the library cell, executed


def execute(
    suite: Path, folder: Path, program: str = "", environment: dict[str, str] | None = None
) -> list[str]:
    """Execute the library cell of 2_b, then a program, in a process in `folder`; the printed lines."""
    (folder / "cell.py").write_text(cell_of(suite, "2_b", "library").source + "\n" + program)
    done = subprocess.run(
        [sys.executable, "-c", "exec(open('cell.py').read())"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "cell.py").unlink()
    return done.stdout.splitlines()


USE = f"{IMPORT}\nprint(mask(1), other())\n"
COLAB = {"COLAB_RELEASE_TAG": "release"}


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return folder


def test_alone_the_embedded_library_is_used_and_no_file_is_left(suite, alone, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    said, used = execute(suite, alone, USE, {"TMPDIR": str(scratch)})
    assert said == "mlm: embedded" and used == 'M naïve \\n "quoted"'
    assert not list(alone.iterdir()) and not list(scratch.iterdir())


def test_a_folder_next_to_the_notebook_is_used_and_differences_are_named(suite):
    assert execute(suite, suite, USE)[0] == "mlm: the folder next to this notebook"
    edit_library(suite, "'M'", "'E'")
    said, used = execute(suite, suite, USE)
    assert said.endswith("which differs from this cell in data/masking.py") and used[0] == "E"
    assert (suite / "mlm/env/unused.py").exists()


@pytest.mark.parametrize("environment", [{}, COLAB], ids=["elsewhere", "Colab"])
def test_an_unrelated_folder_called_mlm_is_left_alone(suite, alone, environment):
    (alone / "mlm").mkdir()
    (alone / "mlm" / "__init__.py").write_text("raise SystemExit('not ours')")
    assert execute(suite, alone, USE, environment)[1][0] == "M"
    assert [path.name for path in (alone / "mlm").iterdir()] == ["__init__.py"]


def test_on_colab_it_is_written_next_to_the_notebook_and_edits_are_kept(suite, alone):
    assert execute(suite, alone, USE, COLAB)[0] == "mlm: embedded"
    path = alone / "mlm" / "data" / "masking.py"
    assert path.read_text("utf-8") == MODULES["data/masking.py"]
    path.write_text(path.read_text("utf-8").replace("'M'", "'mine'"), "utf-8")
    said, used = execute(suite, alone, USE, COLAB)
    assert "differs from this cell in data/masking.py" in said and used.startswith("mine")


def test_on_colab_a_second_notebook_adds_the_modules_that_are_missing(suite, alone):
    execute(suite, alone, "", COLAB)
    (alone / "mlm" / "data" / "masking.py").unlink()
    (alone / "mlm" / "env" / "words.py").write_text("WORD = 'mine'")
    said, used = execute(suite, alone, USE, COLAB)
    assert "differs from this cell in env/words.py; " in said and used == "M mine"
    assert "delete the folder mlm" in said  # it may be an earlier version's


def test_a_second_run_in_the_same_kernel_reloads_an_edit(suite):
    again = f"""
{IMPORT}
first = mask
load_library(EMBEDDED)
{IMPORT}
print("unchanged, the same:", mask is first)
text = Path("mlm/data/masking.py").read_text()
Path("mlm/data/masking.py").write_text(text.replace("'M'", "'edited'"))
load_library(EMBEDDED)
{USE}"""
    lines = execute(suite, suite, again)
    assert lines[2] == "unchanged, the same: True" and lines[-1].startswith("edited")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_that_it_starts_have_the_library_too(suite, alone, method):
    program = f"""
import multiprocessing
{IMPORT}
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(mask, [1, 2]))
"""
    assert execute(suite, alone, program)[1] == "['M', 'M']"


def test_its_source_can_be_shown(suite, alone):
    show = f"import inspect\n{IMPORT}\nprint(inspect.getsource(mask))"
    assert "\n".join(execute(suite, alone, show)[1:3]) == MASK
