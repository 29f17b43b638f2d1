"""Hold the notebooks to the form that readers, papermill and nbval count on.

    python tools/structure.py [NOTEBOOK ...]                (default: notebooks/*.ipynb)
    python tools/structure.py --figures                     how long each notebook reads

Exit 1 with one line for each problem. What the parameters mean is read by papermill itself, so that
whatever passes here is what `papermill --help-notebook` shows.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat
import papermill

from notebooks import all_notebooks, is_hidden, read, tags

CELL_LINES = 40  # the most that a cell in sight may have
NOTEBOOK_LINES = {
    "03_dataset": 420,
    "04_train": 220,
}  # and a notebook: what a class reads at a time
MOST_LINES = 260  # any other notebook
TAGS = {
    "parameters",  # papermill puts its values after this cell
    "skip-execution",  # papermill leaves this cell out: it installs
    "nbval-skip",  # nbval leaves this cell out
    "nbval-check-output",  # its output holds everywhere: compared in CI
    "nbval-ignore-output",  # its output is different each time: never compared
}
HIDDEN_METADATA = {"tags", "cellView", "jupyter"}
NOTEBOOK_METADATA = {"kernelspec", "language_info", "accelerator", "colab"}
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:tmp|root|home|work|Users|private)/[^\s'\"<>]*")


def code_lines(cell):
    """How many lines of a cell are not blank."""
    return sum(1 for line in cell.source.splitlines() if line.strip())


def in_sight(notebook):
    """The code cells that are not collapsed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not is_hidden(cell)]


def figures(path):
    """How long a notebook reads: a line for people."""
    notebook = read(path)
    sizes = [code_lines(cell) for cell in in_sight(notebook)]
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    return (
        f"{Path(path).name:<20} {sum(sizes):>4} code lines in sight, longest cell {max(sizes):>3}, "
        f"{words / sum(sizes):.1f} words of prose a code line"
    )


def texts(cell):
    """The source of a code cell and every text among its outputs."""
    yield cell.source
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def parameter_problems(path, source):
    """Parameters without type or meaning, or read otherwise by papermill than by Python."""
    shown = papermill.inspect_notebook(str(path))
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # names for the annotations
            continue
        line = source.splitlines()[node.lineno - 1]
        name = getattr(getattr(node, "target", None), "id", None)
        told = shown.get(name)
        if not isinstance(node, ast.AnnAssign) or not node.value:
            yield f"{line!r} is not `name: type = value  # meaning`"
        elif not told or told["default"] != ast.get_source_segment(source, node.value):
            yield f"papermill misreads {line!r}: one line, no # in the value, Optional instead of |"
        elif not told["help"]:
            yield f"{name} has no comment that says what it means"


def cell_problems(cell):
    """What is wrong with one cell, whatever notebook it is in."""
    if not cell.source.strip():
        yield "is empty"
    if extra := set(cell.metadata) - ({"tags"} if not is_hidden(cell) else HIDDEN_METADATA):
        yield f"has metadata {sorted(extra)}: remove them"
    if unknown := set(tags(cell)) - TAGS:
        yield f"has tags that mean nothing here: {sorted(unknown)}; known are {sorted(TAGS)}"
    if cell.cell_type != "code":
        return
    if not is_hidden(cell) and (lines := code_lines(cell)) > CELL_LINES:
        yield f"has {lines} lines, {CELL_LINES} are the most"
    if any(output.output_type == "error" for output in cell.outputs):
        yield "stores an error: papermill fails on it; catch an error that is meant and print it"
    if found := [m.group() for text in texts(cell) for m in MACHINE_PATH.finditer(text)]:
        yield f"shows a path of one machine: {found[0]}"
    if "nbval-check-output" in tags(cell) and not cell.outputs:
        yield "is tagged nbval-check-output but stores no output, so that nothing is compared"


def problems(path):
    """One line for each thing that is wrong with the form of a notebook."""
    notebook = read(path)
    cells = notebook.cells
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"{path}: is not valid: {error.message}"
        return
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield f"{path}: its kernelspec is not python3"
        return  # papermill reads nothing without it
    if extra := set(notebook.metadata) - NOTEBOOK_METADATA:
        yield f"{path}: has metadata {sorted(extra)}: remove them"
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        yield f"{path}: does not begin with a title (# ...)"
    where = [number for number, cell in enumerate(cells) if "parameters" in tags(cell)]
    if where != [1]:
        yield f"{path}: one cell is tagged parameters and it follows the title; here: cells {where}"
    else:
        for problem in parameter_problems(path, cells[1].source):
            yield f"{path}: {cells[1].id}: {problem}"
        start = [cell.id for cell in cells[2:3]]
        call = next((c.source for c in cells[3:] if c.cell_type == "code"), "")
        if start != ["library"] or "check_parameters(" not in call:
            yield (
                f"{path}: after the parameters come the library cell and a cell that calls "
                f"check_parameters; here: {start}"
            )
    most, lines = (
        NOTEBOOK_LINES.get(Path(path).stem, MOST_LINES),
        sum(map(code_lines, in_sight(notebook))),
    )
    if lines > most:
        yield f"{path}: has {lines} lines of code in sight, {most} are the most"
    for cell in cells:
        yield from (f"{path}: {cell.id}: {problem}" for problem in cell_problems(cell))
    run = [c for c in cells if c.cell_type == "code" and "skip-execution" not in tags(c)]
    if [cell.execution_count for cell in run] != list(range(1, len(run) + 1)):
        yield (
            f"{path}: its outputs are not those of one run from top to bottom; "
            f"python tools/store_outputs.py {path}"
        )


def main(paths):
    """Print what is wrong with these notebooks, or their figures; the exit status."""
    if "--figures" in paths:
        print(*map(figures, all_notebooks()), sep="\n")
        return 0
    lines = [line for path in paths or all_notebooks() for line in problems(path)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
