"""Keep the notebooks equal to the library next to them.

    python tools/library.py check [NOTEBOOK ...]    exit 1 with one line for each difference
    python tools/library.py fix [NOTEBOOK ...]      write the library into the notebooks

Three things in a notebook come from the library: the cell that embeds the modules that the notebook
imports, the parameters cell, and *quotes*: functions and classes that a notebook teaches, so that the
notebook and the library both contain them. Synchronization has one direction: edit notebooks/mlm/,
then run `make fix`.
"""

import argparse
import ast
import json
import sys
from functools import cache
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from notebooks import ROOT, all_notebooks, is_hidden, read, tags, write

sys.path.insert(0, str(ROOT / "notebooks"))
from mlm.parameters import parameters_cell

LIBRARY = ROOT / "notebooks" / "mlm"
CELL_ID = "library"
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

# the library


def library_texts() -> dict[str, str]:
    """{path below mlm/: text} of all modules, in alphabetical order."""
    paths = sorted(LIBRARY.rglob("*.py"))
    return {path.relative_to(LIBRARY).as_posix(): path.read_text("utf-8") for path in paths}


@cache
def imported_modules(text: str) -> list[str]:
    """Paths below mlm/ of the modules that a text imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    parts = (name.split(".") for name in names)
    return ["/".join(below) + ".py" for first, *below in parts if first == "mlm" and below]


def import_closure(notebook: nbformat.NotebookNode, texts: dict[str, str]) -> dict[str, str]:
    """{path: text} of the modules that a notebook's cells import, directly or indirectly."""
    code = [c for c in notebook.cells if c.cell_type == "code" and c.get("id") != CELL_ID]
    todo = [name for cell in code for name in imported_modules(cell.source)]
    found = {"__init__.py"}
    while todo:
        name = todo.pop()
        if name not in texts:
            raise SystemExit(f"there is no module mlm/{name}, which is imported")
        if name not in found:
            found |= {name, f"{name.rpartition('/')[0]}/__init__.py"} & texts.keys()
            todo += imported_modules(texts[name])
    return {name: text for name, text in texts.items() if name in found}


# the cell that embeds it


def library_cell(texts: dict[str, str]) -> str:
    """The source of the cell that embeds these modules."""
    lines = [
        f"    {name!r}: {json.dumps(text, ensure_ascii=False)},\n" for name, text in texts.items()
    ]
    code = (Path(__file__).parent / "bring.py").read_text(encoding="utf-8").split('"""\n\n', 1)[1]
    imports, function = code.split("\n\n\n", 1)
    embedded = f"# fmt: off\nEMBEDDED = {{\n{''.join(lines)}}}\n# fmt: on"
    return f"{HEAD}{imports}\n\n{embedded}\n\n\n{function.rstrip()}"


def embedded_texts(source: str) -> dict[str, str]:
    """{path: text} that such a cell embeds; empty for any other cell."""
    for node in ast.parse(source).body if source.startswith("# @title The library") else []:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            return ast.literal_eval(node.value)
    return {}


# quotes


def definitions(text: str) -> dict[str, tuple[int, int]]:
    """{name: (first line, last line)} of a text's functions and classes, counted from 0."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = first - 1, node.end_lineno
    return found


def definition(text: str, name: str) -> str:
    """The source of a function or class of a text."""
    first, last = definitions(text)[name]
    return "\n".join(text.splitlines()[first:last])


def replaced(text: str, name: str, source: str) -> str:
    """A text with the definition of `name` replaced."""
    (first, last), lines = definitions(text)[name], text.splitlines()
    return "\n".join([*lines[:first], *source.splitlines(), *lines[last:]])


def with_quotes(source: str, texts: dict[str, str]) -> str:
    """The source of a cell whose definitions of the library's names are the library's."""
    where = {name: module for module, text in texts.items() for name in definitions(text)}
    for name in definitions(source):
        if name in where:
            source = replaced(source, name, definition(texts[where[name]], name))
    return source


# check and fix


def expected(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` as it must be: everything that comes from the library written anew."""
    notebook, texts = read(path), library_texts()
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = parameters_cell(path.stem)
        elif cell.cell_type == "code" and not is_hidden(cell):
            cell.source = with_quotes(cell.source, texts)
    ids = [cell.get("id") for cell in notebook.cells]
    if CELL_ID not in ids:
        (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
        notebook.cells.insert(place + 1, new_code_cell("", id=CELL_ID))
    (library,) = [cell for cell in notebook.cells if cell.get("id") == CELL_ID]
    library.source = library_cell(import_closure(notebook, texts))
    library.metadata = nbformat.from_dict(METADATA)
    return notebook


def problems(path: Path) -> list[str]:
    """One line for each cell of a notebook that differs from the library."""
    there = {cell.id: cell.source for cell in read(path).cells}
    wanted = {cell.id: cell.source for cell in expected(path).cells}
    differ = [id for id, source in wanted.items() if there.get(id) != source]
    return [f"{path.name}: the cell {id!r} differs from notebooks/mlm/: make fix" for id in differ]


def fix(path: Path) -> None:
    """Write the library into the notebook at `path` if anything differs."""
    notebook = expected(path)
    if notebook != read(path):
        write(notebook, path)
        print(f"{path.name}: written")


def embedded_size(path: Path) -> int:
    """Bytes of library text that the notebook at `path` embeds."""
    (source,) = [cell.source for cell in read(path).cells if cell.get("id") == CELL_ID]
    return sum(len(text.encode()) for text in embedded_texts(source).values())


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
