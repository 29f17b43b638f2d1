"""Small notebooks that tests write."""

from collections.abc import Iterable
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

import notebooks


def code_cell(
    source: str, id: str, *tags: str, outputs: Iterable[NotebookNode] = ()
) -> NotebookNode:
    """A code cell with these tags and stored outputs."""
    return new_code_cell(source, id=id, metadata={"tags": list(tags)}, outputs=list(outputs))


def write_notebook(path: Path, *cells: NotebookNode) -> Path:
    """Write a notebook of these cells; its path."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebooks.write(new_notebook(metadata={"kernelspec": kernel}, cells=list(cells)), path)
    return path
