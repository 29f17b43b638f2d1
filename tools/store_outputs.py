"""Run a notebook with papermill and store the outputs of that run in the notebook itself.

    python tools/store_outputs.py NOTEBOOK [--workdir FOLDER] [-p NAME VALUE ...]

Only outputs and execution counts of NOTEBOOK change. A run that fails changes nothing. The notebook
runs in FOLDER (default: a new, empty folder; 05 needs the one that 04 ran in), so relative paths in
its outputs are the same on every machine. All other arguments are passed to papermill.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import reduce
from pathlib import Path

from nbformat import NotebookNode

from notebooks import read, write


def as_displayed(text: str) -> str:
    """The text as a terminal displays it: text after a carriage return overwrites the line."""

    def displayed_line(line: str) -> str:
        parts = line.split("\r")
        line = reduce(lambda below, above: above + below[len(above) :], parts)
        return line.rstrip() if parts[1:] else line

    return "\n".join(map(displayed_line, text.split("\n")))


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs that do not depend on timing: each stream in one piece, progress bars in their last state."""
    result: list[NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            result[-1].text += output.text
        else:
            result.append(output)
    for output in result:
        if output.output_type == "stream":
            output.text = as_displayed(output.text)
    return [output for output in result if output.get("text") != ""]


def store(path: Path, workdir: Path | None, arguments: list[str]) -> None:
    """Run the notebook at `path` in `workdir` and store the outputs of that run in it."""
    before = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.ipynb"
        command = [sys.executable, "-m", "papermill", str(path), str(executed)]
        command += ["--cwd", str(workdir or tempfile.mkdtemp(dir=folder)), *arguments]
        if subprocess.run(command).returncode:
            raise SystemExit(f"{path} is unchanged: the run failed")
        executed_cells = {cell.id: cell for cell in read(executed).cells}
    if path.read_bytes() != before:
        raise SystemExit(f"{path} was edited during the run and is left as it is: run it again")
    notebook, count = read(path), 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        run = executed_cells[cell.id]
        cell.outputs = joined(run.outputs)
        count += run.execution_count is not None
        cell.execution_count = run.execution_count and count
        for output in cell.outputs:  # papermill's counts include the cell that it inserted
            if "execution_count" in output:
                output.execution_count = count
    write(notebook, path)


def main() -> None:
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--workdir", type=Path, help="the folder that the notebook runs in")
    options, papermill_arguments = parser.parse_known_args()
    store(options.notebook, options.workdir, papermill_arguments)


if __name__ == "__main__":
    main()
