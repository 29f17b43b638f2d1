"""Run a notebook's cells in one plain process, which tests can kill, signal or start with torchrun.

    python tests/run_notebook.py notebooks/04_train.ipynb [--patch FILE] [--again CELL] -p NAME VALUE ...

Papermill puts the parameters in; the cells run in an IPython shell, as in a kernel. FILE is Python
that is executed once the library is there, to patch it. The exit status is 1 if a cell failed; the
cell with the id CELL may fail once and is then run again, as a person would after an interrupt.
"""

import argparse
import ast
import contextlib
import runpy
import sys

import matplotlib
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook


def run(path, parameters, patch=None, again=None):
    """Execute all code cells, a patch after the library's, `again` twice if need be; whether all went well."""
    matplotlib.use("agg")
    notebook = parameterize_notebook(load_notebook_node(path), parameters)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        tries = 2 if cell.id == again else 1
        if cell.cell_type == "code" and not any(
            shell.run_cell(cell.source, store_history=True).success for _ in range(tries)
        ):
            return False
        if cell.id == "library" and patch:
            runpy.run_path(patch)
    return True


def value(text):
    """A parameter's value as typed on the command line: a literal, else the text itself."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook")
    parser.add_argument("--patch")
    parser.add_argument("--again")
    parser.add_argument("-p", nargs=2, action="append", default=[])
    options = parser.parse_args()
    values = {name: value(text) for name, text in options.p}
    sys.exit(0 if run(options.notebook, values, options.patch, options.again) else 1)
