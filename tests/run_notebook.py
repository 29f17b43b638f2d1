"""Run a notebook's cells in one plain process, which tests can kill, signal or start with torchrun.

    python tests/run_notebook.py NOTEBOOK [--patch FILE] [--again CELL] -p NAME VALUE ...

papermill inserts the parameters; the cells run in an IPython shell, as in a kernel. FILE is Python code
that is executed after the library cell, for example to patch the library. The exit status is 1 if a cell
fails; its id is printed. The cell with the id CELL may fail once: it is then run again, as a person does
after an interrupt.

    python tests/run_notebook.py --serve DESCRIPTOR

Imports torch, Lightning and transformers once (8 seconds) and then forks a process for each such command
that arrives at the socket. tests/processes.py uses it.
"""

import argparse
import ast
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from typing import Any

import matplotlib
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

HEAVY = (  # what the notebooks import, apart from the library
    "matplotlib.pyplot",
    "pandas.io.formats.style",
    "pooch",
    "pytorch_lightning",
    "torch.utils.tensorboard",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.pipelines",
)


def run(
    path: str, parameters: dict[str, Any], patch: str | None = None, again: str | None = None
) -> bool:
    """Execute all code cells, and a patch after the library cell; whether all cells succeeded."""
    matplotlib.use("agg")
    notebook = parameterize_notebook(load_notebook_node(path), parameters)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tries = 2 if cell.id == again else 1
        if not any(shell.run_cell(cell.source, store_history=True).success for _ in range(tries)):
            print("failed cell:", cell.id)
            return False
        if cell.id == "library" and patch:
            runpy.run_path(patch)
    return True


def value(text: str) -> Any:
    """A parameter's value as typed on the command line: a literal, or else the text itself."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def serve(connection: socket.socket) -> list[str]:
    """Fork a process for each request. Returns the command's arguments, in the new process only.

    A request is JSON {arguments, folder, environment} with two file descriptors: where the process
    prints, and where the server writes the exit status. The server answers with the process id.
    """
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # a collection in a forked process would copy all of this memory
    running: dict[int, int] = {}  # process id: descriptor for its exit status
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                descriptor = running.pop(pid)
                with contextlib.suppress(BrokenPipeError):
                    os.write(descriptor, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(descriptor)
        if not select.select([connection], [], [], 0.02 if running else None)[0]:
            continue
        message, descriptors, *_ = socket.recv_fds(connection, 2**20, 2)
        if not message:  # the tests have ended
            sys.exit(0)
        request, (output, exit_status) = json.loads(message), descriptors
        pid = os.fork()
        if pid == 0:
            connection.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            os.chdir(request["folder"])
            os.environ.clear()
            os.environ.update(request["environment"])
            return request["arguments"]
        os.close(output)
        running[pid] = exit_status
        connection.send(str(pid).encode())


def main() -> int:
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="?")
    parser.add_argument("--patch")
    parser.add_argument("--again")
    parser.add_argument("--serve", type=int)
    parser.add_argument("-p", nargs=2, action="append", default=[])
    options = parser.parse_args()
    forked = options.serve is not None
    if forked:
        options = parser.parse_args(serve(socket.socket(fileno=options.serve)))
    values = {name: value(text) for name, text in options.p}
    status = 0 if run(options.notebook, values, options.patch, options.again) else 1
    if forked:  # without taking the interpreter apart, which takes seconds
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
