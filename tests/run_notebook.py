"""Run a notebook's cells in one plain process, which tests can kill, signal or start with torchrun.

    python tests/run_notebook.py notebooks/04_train.ipynb -p NAME VALUE ...

Papermill puts the parameters in; the cells run in an IPython shell, as in a kernel. The exit status
is 1 if a cell failed.
"""

import ast
import contextlib
import sys

import matplotlib
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook


def run(path, parameters):
    """Execute all code cells; whether all went well."""
    matplotlib.use("agg")
    notebook = parameterize_notebook(load_notebook_node(path), parameters)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type == "code" and not shell.run_cell(cell.source, store_history=True).success:
            return False
    return True


def value(text):
    """A parameter's value as typed on the command line: a literal, else the text itself."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


if __name__ == "__main__":
    pairs = [argument for argument in sys.argv[2:] if argument != "-p"]
    values = {name: value(text) for name, text in zip(pairs[::2], pairs[1::2])}
    sys.exit(0 if run(sys.argv[1], values) else 1)
