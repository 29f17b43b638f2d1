"""Keep the notebooks in step with the library.

    python tools/library.py check [NOTEBOOK ...]    exit 1 with one line for each cell that differs
    python tools/library.py fix [NOTEBOOK ...]      write the library into the notebooks

Three things in a notebook come from the library: the cell that embeds the modules that the notebook
imports, the parameters cell, and *quotes*. A quote is a function or class that a notebook teaches and
the library uses, so that both contain it. Synchronization has one direction: edit notebooks/mlm/, then
run `make fix`.
"""

import argparse
import ast
import importlib
import json
import sys
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from modules import import_closure, library_texts
from notebooks import LIBRARY_CELL, ROOT, all_notebooks, is_hidden, read, tags, write

sys.path.insert(0, str(ROOT / "notebooks"))
from mlm.parameters.check import Groups, literal

TITLE = '# @title The library `mlm`, embedded so that this file runs alone { display-mode: "form" }'
HEAD = f"""{TITLE}
# The modules that this notebook imports, as plain text, one per line. A folder mlm/ next to the
# notebook is used instead. Written by `make fix`: edit notebooks/mlm/, not this cell.
"""
METADATA = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "tags": ["nbval-ignore-output"],
}

# the library cell


def code_sources(notebook: NotebookNode) -> list[str]:
    """The sources of a notebook's code cells, the library cell excepted."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if cell.get("id") != LIBRARY_CELL]


def library_cell(texts: dict[str, str]) -> str:
    """The source of the cell that embeds these modules."""
    lines = [
        f"    {name!r}: {json.dumps(text, ensure_ascii=False)},\n" for name, text in texts.items()
    ]
    loader = (Path(__file__).parent / "load_library.py").read_text(encoding="utf-8")
    imports, function = loader.split('"""\n\n', 1)[1].split("\n\n\n", 1)
    embedded = f"# fmt: off\nEMBEDDED = {{\n{''.join(lines)}}}\n# fmt: on"
    return f"{HEAD}{imports}\n\n{embedded}\n\n\n{function.rstrip()}"


def embedded_texts(source: str) -> dict[str, str]:
    """{module: text} that a library cell embeds; empty for any other cell."""
    if not source.startswith("# @title The library"):
        return {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            return ast.literal_eval(node.value)
    return {}


def embedded_size(notebook: NotebookNode) -> int:
    """Bytes of library text that a notebook embeds."""
    sources = [cell.source for cell in notebook.cells if cell.get("id") == LIBRARY_CELL]
    return sum(len(text.encode()) for s in sources for text in embedded_texts(s).values())


# quotes


@cache
def definitions(text: str) -> dict[str, tuple[int, int]]:
    """{name: (first line, last line)} of the functions and classes of a source, counted from 0."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = first - 1, node.end_lineno or node.lineno
    return found


def definition(text: str, name: str) -> list[str]:
    """The lines of a function or class of a source."""
    first, last = definitions(text)[name]
    return text.splitlines()[first:last]


def with_quotes(source: str, texts: dict[str, str]) -> str:
    """The source of a cell, with every definition that the library also has taken from the library."""
    for name in definitions(source):
        modules = [module for module, text in texts.items() if name in definitions(text)]
        if len(modules) > 1:
            raise SystemExit(
                f"{name} is a quote, but {' and '.join(modules)} both define it: rename one"
            )
        for module in modules:
            (first, last), lines = definitions(source)[name], source.splitlines()
            lines[first:last] = definition(texts[module], name)
            source = "\n".join(lines)
    return source


# the parameters cell


def parameter_groups(notebook: str) -> Groups:
    """The parameters of a notebook, "04_train" for example, by their headings."""
    name = {"03b_packing": "dataset"}.get(notebook, notebook.partition("_")[2])
    return importlib.import_module(f"mlm.parameters.{name}").PARAMETERS


def parameters_cell(notebook: str) -> str:
    """The source of a notebook's parameters cell."""
    groups = parameter_groups(notebook)
    types = " ".join(p.type for parameters in groups.values() for p in parameters)
    imports = [name for name in ("Optional", "Union") if name in types]
    lines = ["# Edit the values here, or pass them to papermill with -p NAME VALUE."]
    if imports:
        lines += [f"from typing import {', '.join(imports)}"]
    for heading, parameters in groups.items():
        lines += ["", f"# {heading}"] if len(groups) > 1 else [""]
        lines += [f"{p.name}: {p.type} = {literal(p.default)}  # {p.meaning}" for p in parameters]
    return "\n".join(lines)


# check and fix


def expected(path: Path) -> NotebookNode:
    """The notebook at `path`, with everything that comes from the library taken from the library."""
    notebook, texts = read(path), library_texts()
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = parameters_cell(path.stem)
        elif cell.cell_type == "code" and not is_hidden(cell):
            cell.source = with_quotes(cell.source, texts)
    if LIBRARY_CELL not in [cell.get("id") for cell in notebook.cells]:
        (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
        notebook.cells.insert(at + 1, new_code_cell("", id=LIBRARY_CELL))
    (library,) = [cell for cell in notebook.cells if cell.get("id") == LIBRARY_CELL]
    library.source = library_cell(import_closure(code_sources(notebook), texts))
    library.metadata = nbformat.from_dict(METADATA)
    return notebook


def problems(path: Path) -> list[str]:
    """One line for each cell of a notebook that differs from the library."""
    actual = {cell.id: (cell.source, cell.metadata) for cell in read(path).cells}
    wanted = {cell.id: (cell.source, cell.metadata) for cell in expected(path).cells}
    differ = [id for id, cell in wanted.items() if actual.get(id) != cell]
    return [f"{path.name}: the cell {id!r} differs from notebooks/mlm/: make fix" for id in differ]


def fix(path: Path) -> None:
    """Write the library into the notebook at `path`, if anything differs."""
    notebook = expected(path)
    if notebook != read(path):
        write(notebook, path)
        print(f"{path.name}: written")


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["check", "fix"])
    parser.add_argument("notebooks", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    paths = options.notebooks or all_notebooks()
    if options.command == "fix":
        for path in paths:
            fix(path)
        return 0
    lines = [line for path in paths for line in problems(path)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
