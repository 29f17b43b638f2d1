"""Git merges notebooks by cell: generated content never conflicts, edits of the same lines do."""

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_output

import library
import merge_notebook
import modules
import notebooks
from helpers import ROOT
from small_notebooks import code_cell, write_notebook

DRIVER = "python3 tools/merge_notebook.py %O %A %B %P"


def git(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run git in `folder`; its output."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def edit_cell(path: Path, id: str, old: str, new: str) -> None:
    """Replace text in a cell of a notebook."""
    notebook = notebooks.read(path)
    (cell,) = [cell for cell in notebook.cells if cell.id == id]
    assert old in cell.source
    cell.source = cell.source.replace(old, new)
    notebooks.write(notebook, path)


def sources(path: Path) -> dict[str, str]:
    """{id: source} of a valid notebook."""
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    return {cell.id: cell.source for cell in notebook.cells}


NOTEBOOKS = "notebooks/02_corpus.ipynb", "notebooks/04_train.ipynb"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this suite's library, two of its notebooks, and the merge driver."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "notebooks" / "mlm", tmp_path / "notebooks" / "mlm", ignore=ignore)
    (tmp_path / "tools").mkdir()
    for name in (*NOTEBOOKS, "tools/merge_notebook.py", ".gitattributes"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(modules, "LIBRARY", tmp_path / "notebooks" / "mlm")
    monkeypatch.setattr(library, "all_notebooks", lambda: [tmp_path / name for name in NOTEBOOKS])
    assert library.main(["fix"]) == 0
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "merge.notebook.driver", DRIVER)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "start")
    git(tmp_path, "branch", "theirs")
    return tmp_path


def commit_edit(repository: Path, branch: str, module: str, docstring: str) -> None:
    """On a branch, edit a module of the library, embed it in the notebooks, and commit."""
    git(repository, "checkout", "-q", branch)
    path = repository / "notebooks" / "mlm" / module
    text = path.read_text(encoding="utf-8")
    path.write_text(f'"""{docstring} {text.removeprefix(QUOTES)}', encoding="utf-8")
    assert library.main(["fix"]) == 0
    git(repository, "commit", "-q", "-a", "-m", f"edit {module}")


QUOTES = '"""'
NEIGHBOURS = "env/hub.py", "env/loggers.py"  # one after the other in the library cell


def test_two_branches_that_edit_different_modules_merge(repository):
    for branch, module in zip(("main", "theirs"), NEIGHBOURS):
        commit_edit(repository, branch, module, f"Edited in {branch}.")
    git(repository, "checkout", "-q", "main")
    git(repository, "merge", "-q", "--no-edit", "theirs")
    assert library.main(["fix"]) == library.main(["check"]) == 0
    source = sources(repository / "notebooks/04_train.ipynb")["library"]
    texts = library.embedded_texts(source)
    assert texts[NEIGHBOURS[0]].startswith('"""Edited in main.')
    assert texts[NEIGHBOURS[1]].startswith('"""Edited in theirs.')


def test_without_the_driver_they_conflict(repository):
    """So the test above shows what the driver is for."""
    git(repository, "config", "--unset", "merge.notebook.driver")
    for branch, module in zip(("main", "theirs"), NEIGHBOURS):
        commit_edit(repository, branch, module, f"Edited in {branch}.")
    git(repository, "checkout", "-q", "main")
    said = git(repository, "merge", "-q", "--no-edit", "theirs", code=1)
    assert "CONFLICT (content): Merge conflict in notebooks/04_train.ipynb" in said


def test_two_branches_that_edit_the_same_line_of_a_cell_conflict(repository):
    for branch in ("main", "theirs"):
        git(repository, "checkout", "-q", branch)
        edit_cell(repository / NOTEBOOKS[0], "title", "# ", f"# Edited in {branch}: ")
        git(repository, "commit", "-q", "-a", "-m", "edit the title")
    git(repository, "checkout", "-q", "main")
    said = git(repository, "merge", "-q", "--no-edit", "theirs", code=1)
    assert "CONFLICT (content): Merge conflict in notebooks/02_corpus.ipynb" in said
    title = sources(repository / NOTEBOOKS[0])["title"]
    assert title.startswith("<<<<<<< ours\n# Edited in main: ") and ">>>>>>> theirs" in title


# the driver itself


def numbered(*cells: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells with execution counts and an output each, after a title."""
    for count, cell in enumerate(cells, 1):
        cell.execution_count = count
        cell.outputs = [
            new_output("execute_result", {"text/plain": cell.source}, execution_count=count)
        ]
    return [new_markdown_cell("# Title\n\nText.", id="title"), *cells]


@pytest.fixture
def merge(tmp_path: Path):
    """merge(base, ours, theirs) -> (exit status, path of the result), for dicts {id: source} of cells."""

    def run(*versions: dict[str, str]) -> tuple[int, Path]:
        paths = [tmp_path / name for name in ("base.ipynb", "ours.ipynb", "theirs.ipynb")]
        for path, version in zip(paths, versions):
            write_notebook(path, *numbered(*(code_cell(s, id) for id, s in version.items())))
        return merge_notebook.main(*map(str, paths)), paths[1]

    return run


BASE = {"a": "x = 1\ny = 2\nz = 3", "b": "print(x)", "c": "print(y)"}


def test_edits_of_different_lines_merge_and_outputs_follow_the_sources(merge):
    ours = BASE | {"a": "x = 10\ny = 2\nz = 3"}
    theirs = BASE | {"a": "x = 1\ny = 2\nz = 30", "c": "print(z)"}
    status, path = merge(BASE, ours, theirs)
    assert status == 0
    assert sources(path) == {
        "title": "# Title\n\nText.", "a": "x = 10\ny = 2\nz = 30", "b": "print(x)", "c": "print(z)"
    }  # fmt: skip
    stored = [cell.outputs[0].data["text/plain"] for cell in notebooks.read(path).cells[1:]]
    assert stored == [ours["a"], "print(x)", "print(z)"]  # a: neither; ours, until make outputs


def test_added_moved_and_deleted_cells_merge(merge):
    ours = {"a": BASE["a"], "new": "print('ours')", "b": BASE["b"], "c": BASE["c"]}
    theirs = {"a": BASE["a"], "b": BASE["b"]}
    status, path = merge(BASE, ours, theirs)
    assert status == 0 and list(sources(path)) == ["title", "a", "new", "b"]
    cells = notebooks.read(path).cells[1:]
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert [cell.outputs[0].execution_count for cell in cells] == [1, 2, 3]


def test_edits_of_the_same_line_leave_conflict_markers_in_the_cell(merge, capsys):
    status, path = merge(BASE, BASE | {"b": "print(1)"}, BASE | {"b": "print(2)"})
    assert status == 1 and "conflict markers" in capsys.readouterr().err
    assert sources(path)["b"] == (
        "<<<<<<< ours\nprint(1)\n=======\nprint(2)\n>>>>>>> theirs"
    )  # fmt: skip
    assert sources(path)["c"] == BASE["c"]


def test_a_cell_of_one_id_added_by_both_keeps_both(merge):
    status, path = merge(BASE, BASE | {"d": "print(1)"}, BASE | {"d": "print(2)"})
    assert status == 1
    assert "print(1)" in sources(path)["d"] and "print(2)" in sources(path)["d"]


def test_a_result_is_written_as_jupyter_writes_it(merge):
    _, path = merge(BASE, BASE, BASE | {"b": "print('ü')"})
    before = path.read_text(encoding="utf-8")
    notebooks.write(notebooks.read(path), path)
    assert path.read_text(encoding="utf-8") == before


def test_a_file_that_is_no_notebook_is_merged_as_text(tmp_path, capsys):
    paths = [tmp_path / name for name in ("base", "ours", "theirs")]
    for path, text in zip(paths, ("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n")):
        path.write_text(text)
    assert merge_notebook.main(*map(str, paths)) == 0
    assert paths[1].read_text() == "A\nb\nc\nD\n"
    assert "merged as text" in capsys.readouterr().err


def test_conflicting_metadata_is_a_conflict_in_the_file(tmp_path):
    paths = [tmp_path / name for name in ("base.ipynb", "ours.ipynb", "theirs.ipynb")]
    for path, version in zip(paths, ("3.10", "3.11", "3.12")):
        write_notebook(path, code_cell("1", "a"))
        notebook = notebooks.read(path)
        notebook.metadata["language_info"] = {"name": "python", "version": version}
        notebooks.write(notebook, path)
    assert merge_notebook.main(*map(str, paths)) == 1
    text = paths[1].read_text()
    assert "<<<<<<<" in text and "3.12" in text
    with pytest.raises(ValueError):
        json.loads(text)
