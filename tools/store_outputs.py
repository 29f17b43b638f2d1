"""Run a notebook with papermill and store the outputs of that run in the notebook itself.

    python tools/store_outputs.py NOTEBOOK [--workdir FOLDER] [-p NAME VALUE ...]

Only outputs and execution counts of NOTEBOOK change. A run that fails changes nothing. The notebook
runs in FOLDER (a fresh empty one if none is given; 05 needs the one that 04 ran in), so relative
paths in its outputs are the same on every machine. Every other argument goes to papermill.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import reduce
from pathlib import Path

from notebooks import read, write


def as_shown(text):
    """The text as a terminal shows it: what follows a carriage return overwrites the line."""

    def line_as_shown(line):
        writes = line.split("\r")
        line = reduce(lambda under, over: over + under[len(over) :], writes)
        return line.rstrip() if writes[1:] else line

    return "\n".join(map(line_as_shown, text.split("\n")))


def joined(outputs):
    """Outputs without the accidents of timing: streams in one piece, progress bars at their end."""
    result = []
    for output in outputs:
        last = result[-1] if result else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            last.text += output.text
        else:
            result.append(output)
    for output in result:
        if output.output_type == "stream":
            output.text = as_shown(output.text)
    return [output for output in result if output.get("text") != ""]


def store(path, workdir, arguments):
    """Run the notebook at `path` in `workdir` and put that run's outputs into it."""
    path, before = Path(path), Path(path).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.ipynb"
        places = [path, executed, "--cwd", workdir or tempfile.mkdtemp(dir=folder)]
        run = subprocess.run([sys.executable, "-m", "papermill", *places, *arguments])
        if run.returncode:
            raise SystemExit(f"{path}: left as it was, since the run failed")
        outputs = {cell.id: cell for cell in read(executed).cells}
    if path.read_bytes() != before:
        raise SystemExit(f"{path}: left as it is, since it was edited during the run")
    notebook, count = read(path), 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        run = outputs[cell.id]
        cell.outputs = joined(run.outputs)
        count += run.execution_count is not None
        cell.execution_count = run.execution_count and count
        for output in cell.outputs:  # papermill's own cell, not stored here, had a number too
            if "execution_count" in output:
                output.execution_count = count
    write(notebook, path)


def main():
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--workdir", type=Path, help="folder that the notebook runs in")
    options, papermill_arguments = parser.parse_known_args()
    store(options.notebook, options.workdir, papermill_arguments)


if __name__ == "__main__":
    main()
