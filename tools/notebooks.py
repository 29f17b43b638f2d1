"""Reading and writing notebooks, for the other tools."""

from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def all_notebooks():
    """The paths of the suite's notebooks, in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    """The notebook at `path`."""
    return nbformat.read(path, as_version=4)


def write(notebook, path):
    """Write a notebook as Jupyter does, so that a diff shows what changed and nothing else."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)


def tags(cell):
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def is_hidden(cell):
    """Whether a cell's source is collapsed in Jupyter or Colab."""
    jupyter = cell.metadata.get("jupyter", {})
    return cell.metadata.get("cellView") == "form" or bool(jupyter.get("source_hidden"))
