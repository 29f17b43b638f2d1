"""Keep the notebooks true to the library beside them.

    python tools/library.py check        exit 1 with a line for each difference
    python tools/library.py fix          carry edits of notebooks/mlm/ into the notebooks, and back

Three things in a notebook come from the library: the cell that carries its text, the parameters cell,
and *quotes*: functions and classes that are taught where they stand, so they stand in both. A quote
that was edited on one side is carried to the other: what the notebook carries is what both were
before. Where both sides were edited, nothing is done until one is chosen:

    python tools/library.py fix --keep library|notebook
"""

import argparse
import ast
import json
import sys
from pathlib import Path

from notebooks import ROOT, all_notebooks, is_hidden, read, tags, write

sys.path.insert(0, str(ROOT / "notebooks"))
from mlm.parameters import parameters_cell

LIBRARY = ROOT / "notebooks" / "mlm"
CELL_ID = "library"
TITLE = (
    "# @title The library `mlm`, carried along so that this one file is enough"
    ' { display-mode: "form" }'
)
HEAD = f"""{TITLE}
# All code that is not this notebook's own subject: plain Python, one module a line. It is used unless a
# folder mlm/ lies beside the notebook. Written by `make fix`: edit mlm/*.py, not this.
"""
METADATA = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "tags": ["nbval-ignore-output"],
}


def library_texts():
    """{module: its text}, in the order of the library's own list of them."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in LIBRARY.glob("*.py")}
    order = texts["__init__"].split()
    place = {name: order.index(name) if name in order else -1 for name in texts}
    return dict(sorted(texts.items(), key=lambda item: (place[item[0]], item[0])))


def library_cell(texts):
    """The source of the cell that carries these modules."""
    lines = [
        f"    {name!r}: {json.dumps(text, ensure_ascii=False)},\n" for name, text in texts.items()
    ]
    code = (Path(__file__).parent / "bring.py").read_text(encoding="utf-8").split('"""\n\n', 1)[1]
    imports, function = code.split("\n\n\n", 1)
    carried = f"# fmt: off\nCARRIED = {{\n{''.join(lines)}}}\n# fmt: on"
    return f"{HEAD}{imports}\n\n{carried}\n\n\n{function.rstrip()}"


def carried_texts(source):
    """{module: its text} that such a cell carries; empty where it is none."""
    for node in ast.parse(source).body if source.startswith(TITLE) else []:
        if isinstance(node, ast.Assign) and node.targets[0].id == "CARRIED":
            return ast.literal_eval(node.value)
    return {}


def definitions(text):
    """{name: (first line, last line)} of a text's functions and classes, counted from 0."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = first - 1, node.end_lineno
    return found


def definition(text, name):
    """The source of a function or class, None where a text has none of this name."""
    first, last = definitions(text).get(name, (None, None))
    return None if last is None else "\n".join(text.splitlines()[first:last])


def replaced(text, name, source):
    """A text with the definition of `name` exchanged."""
    (first, last), lines = definitions(text)[name], text.splitlines()
    end = "\n" if text.endswith("\n") else ""
    return "\n".join([*lines[:first], *source.splitlines(), *lines[last:]]) + end


def quotes(notebook, texts):
    """(cell, name, module) of each definition in sight that the library has too."""
    where = {name: module for module, text in texts.items() for name in definitions(text)}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not is_hidden(cell):
            yield from ((cell, n, where[n]) for n in definitions(cell.source) if n in where)


def cell_named(notebook, name):
    """The cell with this id or tag, None where there is none."""
    found = [cell for cell in notebook.cells if cell.get("id") == name or name in tags(cell)]
    return found[0] if found else None


def problems(paths):
    """One line for each place where a notebook and the library differ."""
    texts = library_texts()
    for path in paths:
        notebook = read(path)
        expected = (CELL_ID, library_cell(texts)), ("parameters", parameters_cell(path.stem))
        for name, source in expected:
            cell = cell_named(notebook, name)
            if cell is None or cell.source != source:
                yield f"{path.name}: its {name} cell is not the library's: make fix"
        for cell, name, module in quotes(notebook, texts):
            if definition(cell.source, name) != definition(texts[module], name):
                yield f"{path.name}: {cell.id}: {name} differs from mlm/{module}.py: make fix"


def settle(path, keep=None):
    """Carry edited quotes of a notebook to the side that was not edited; lines for what cannot be."""
    notebook, texts, left = read(path), library_texts(), []
    library = cell_named(notebook, CELL_ID)
    before = carried_texts(library.source) if library else {}
    for cell, name, module in quotes(notebook, texts):
        quoted, text = definition(cell.source, name), definition(texts[module], name)
        base = definition(before.get(module, ""), name)
        if quoted == text:
            continue
        if keep == "library" or (keep is None and quoted == base):
            cell.source = replaced(cell.source, name, text)
        elif keep == "notebook" or (keep is None and text == base):
            texts[module] = replaced(texts[module], name, quoted)
            (LIBRARY / f"{module}.py").write_text(texts[module], encoding="utf-8")
        else:
            left.append(
                f"{path.name}: {name} was edited here and in mlm/{module}.py: choose one with "
                "python tools/library.py fix --keep library (or notebook)"
            )
    write_if_changed(notebook, path)
    return left


def carry(path):
    """Write the library and the parameters into a notebook."""
    notebook = read(path)
    cell_named(notebook, "parameters").source = parameters_cell(path.stem)
    if (cell := cell_named(notebook, CELL_ID)) is None:
        from nbformat.v4 import new_code_cell

        place = notebook.cells.index(cell_named(notebook, "parameters")) + 1
        cell = new_code_cell("", id=CELL_ID)
        notebook.cells.insert(place, cell)
    cell.source, cell.metadata = library_cell(library_texts()), METADATA
    write_if_changed(notebook, path)


def write_if_changed(notebook, path):
    if notebook != read(path):
        write(notebook, path)
        print(f"{path.name}: written")


def main(arguments=None):
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["check", "fix"])
    parser.add_argument("--keep", choices=["library", "notebook"])
    options = parser.parse_args(arguments)
    paths = all_notebooks()
    if options.command == "fix":
        left = {path: settle(path, options.keep) for path in paths}
        for path in paths:
            if not left[path]:  # what it carries is what both sides were: needed until they agree
                carry(path)
        lines = [line for path in paths for line in left[path]]
    else:
        lines = list(problems(paths))
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
