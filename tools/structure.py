"""Check the form of the notebooks that readers, papermill and nbval rely on.

    python tools/structure.py [NOTEBOOK ...]                (default: notebooks/*.ipynb)

Exits with 1 and one line for each problem. papermill itself reads the parameters, so a notebook that
passes shows every parameter in `papermill --help-notebook`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

from notebooks import LIBRARY_CELL, all_notebooks, is_hidden, read, tags

TAGS = {
    "parameters": "papermill inserts its values after this cell",
    "skip-execution": "papermill skips this cell: it installs packages",
    "nbval-skip": "nbval skips this cell",
    "nbval-check-output": "the output is the same everywhere: the tests compare it",
    "nbval-ignore-output": "the output differs in every run: never compared",
}
HIDDEN_CELL_METADATA = {"tags", "cellView", "jupyter"}
NOTEBOOK_METADATA = {"kernelspec", "language_info", "accelerator", "colab"}
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:tmp|root|home|work|Users|private)/[^\s'\"<>]*")
RANDOM_ID = re.compile(r"[0-9a-f]{8}")  # as Jupyter and Colab make them


def texts(cell: NotebookNode) -> Iterator[str]:
    """The source of a code cell and every text in its outputs."""
    yield cell.source
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def parameter_problems(path: Path, source: str) -> Iterator[str]:
    """Parameters without a type or a comment, or that papermill reads in another way than Python."""
    read_by_papermill = papermill.inspect_notebook(str(path))
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # Optional and Union
            continue
        line = source.splitlines()[node.lineno - 1]
        if not isinstance(node, ast.AnnAssign) or not node.value:
            yield f"{line!r} must be `name: type = value  # meaning`"
            continue
        name = getattr(node.target, "id", "")
        found = read_by_papermill.get(name)
        if not found or found["default"] != ast.get_source_segment(source, node.value):
            yield (
                f"papermill cannot read {line!r}: write one line, no # in the value, and Optional "
                "instead of |"
            )
        elif not found["help"]:
            yield f"{name} needs a comment that says what it means"


def cell_problems(cell: NotebookNode) -> Iterator[str]:
    """What is wrong with one cell, in whatever notebook it is."""
    if RANDOM_ID.fullmatch(cell.id):
        yield "has a random id: give it a name that says what the cell does"
    if not cell.source.strip():
        yield "is empty"
    if extra := set(cell.metadata) - ({"tags"} if not is_hidden(cell) else HIDDEN_CELL_METADATA):
        yield f"has metadata {sorted(extra)}: remove them"
    if unknown := set(tags(cell)) - TAGS.keys():
        yield f"has unknown tags {sorted(unknown)}: use {', '.join(sorted(TAGS))}"
    if cell.cell_type != "code":
        return
    if any(output.output_type == "error" for output in cell.outputs):
        yield "stores an error, and papermill stops at errors: catch it and print it"
    if found := [match.group() for text in texts(cell) for match in MACHINE_PATH.finditer(text)]:
        yield f"contains a path of one machine: {found[0]}"
    if "nbval-check-output" in tags(cell) and not cell.outputs:
        yield "has the tag nbval-check-output but stores no output to compare with: make outputs"


def order_problems(path: Path, cells: list[NotebookNode]) -> Iterator[str]:
    """The cells that every notebook begins with: title, parameters, library, check."""
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        yield "must begin with a title (# ...)"
    at = [number for number, cell in enumerate(cells) if "parameters" in tags(cell)]
    if at != [1]:
        yield f"the second cell, and no other, must have the tag parameters; here: cells {at}"
        return
    yield from (f"{cells[1].id}: {line}" for line in parameter_problems(path, cells[1].source))
    after = [cell.id for cell in cells[2:3]]
    check = next((cell.source for cell in cells[3:] if cell.cell_type == "code"), "")
    if after != [LIBRARY_CELL] or "check_parameters(" not in check:
        yield (
            "the parameters must be followed by the library cell and a cell that calls "
            f"check_parameters; here: {after}"
        )


def notebook_problems(path: Path) -> Iterator[str]:
    """What is wrong with the form of a notebook."""
    notebook = read(path)
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"is not a valid notebook: {error.message}"
        return
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec must be python3"  # without it papermill reads no parameters
        return
    if extra := set(notebook.metadata) - NOTEBOOK_METADATA:
        yield f"has metadata {sorted(extra)}: remove them"
    yield from order_problems(path, notebook.cells)
    for cell in notebook.cells:
        yield from (f"{cell.id}: {problem}" for problem in cell_problems(cell))
    run = [c for c in notebook.cells if c.cell_type == "code" and "skip-execution" not in tags(c)]
    if [cell.execution_count for cell in run] != list(range(1, len(run) + 1)):
        yield (
            "the stored outputs are not from one run from top to bottom: "
            f"python tools/store_outputs.py {path}"
        )


def problems(path: Path | str) -> list[str]:
    """One line for each thing that is wrong with the form of a notebook."""
    return [f"{path}: {problem}" for problem in notebook_problems(Path(path))]


def main(paths: list[str]) -> int:
    """Print what is wrong with these notebooks; the exit status."""
    lines = [line for path in paths or all_notebooks() for line in problems(path)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
