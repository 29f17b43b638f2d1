"""Read and write notebooks. The other tools use this module."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
LIBRARY_CELL = "library"  # the id of the cell that embeds the library


def all_notebooks() -> list[Path]:
    """The paths of the suite's notebooks, in reading order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path | str) -> NotebookNode:
    """The notebook at `path`."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path | str) -> None:
    """Write a notebook in Jupyter's own layout, so that a diff shows only what changed."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def is_hidden(cell: NotebookNode) -> bool:
    """Whether Jupyter or Colab shows the cell collapsed."""
    jupyter = cell.metadata.get("jupyter", {})
    return cell.metadata.get("cellView") == "form" or bool(jupyter.get("source_hidden"))


def visible_code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that a reader sees: all that are not collapsed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not is_hidden(cell)]


def code_lines(cell: NotebookNode) -> int:
    """Number of lines of a cell that are not blank."""
    return sum(1 for line in cell.source.splitlines() if line.strip())
