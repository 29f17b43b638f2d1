"""Keep the cells that several notebooks share equal.

    python tools/shared_cells.py check [NOTEBOOK ...]       (default: notebooks/*.ipynb)
    python tools/shared_cells.py copy NOTEBOOK [CELL-ID ...]

Each notebook runs alone, so code that two of them need stands in both: in a cell whose nbformat id
starts with "shared-" and is the same in each. `check` holds that such cells are equal and closed,
and that no other function or class is written twice. `copy` carries the shared cells of the
notebook you edited to the others in its folder: you say which side is right, it never guesses.
"""

import argparse
import builtins
import os
import re
import symtable
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import Path

import nbformat

COPY = "python tools/shared_cells.py copy"
NEW_IDS = "python -c \"import nbformat as n; p='{}'; n.write(n.v4.upgrade(n.read(p, 4)), p)\""


def all_notebooks():
    """The paths of this repository's notebooks, as seen from the current folder."""
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    return sorted(os.path.relpath(path) for path in folder.glob("*.ipynb"))


def read(path):
    """The notebook as it is on disk (`nbformat.read` mends missing and repeated ids unasked)."""
    return nbformat.v4.reads(Path(path).read_text(encoding="utf-8"))


def write(notebook, path):
    """Write a notebook as nbformat and Jupyter do."""
    Path(path).write_text(nbformat.v4.writes(notebook) + "\n", encoding="utf-8")


def tags(cell):
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


@dataclass
class Cell:
    """A cell, with the names it gives to the notebook and those it takes from it."""

    path: str
    id: str
    source: str
    tags: list
    definitions: set  # functions and classes
    constants: set  # module-level names in capitals
    needs: set  # global names neither bound in this cell nor builtin

    @property
    def shared(self):
        return self.id.startswith("shared-")


def parse(path, cell):
    """The `Cell` of a notebook's cell; Python's own symbol tables say what it defines and needs."""
    code = "" if cell.cell_type != "code" or cell.source.startswith("%%") else cell.source
    code = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", code)  # IPython's magic and shell lines
    tables = [symtable.symtable(code, cell.id, "exec")]
    for table in tables:  # grows while it is read: scopes within scopes
        tables.extend(table.get_children())
    top = tables[0].get_symbols()
    bound = {s.get_name() for s in top if s.is_assigned() or s.is_imported()}
    symbols = [s for table in tables for s in table.get_symbols()]
    used = {s.get_name() for s in symbols if s.is_global() and s.is_referenced()}
    return Cell(
        path=path,
        id=cell.id,
        source=cell.source,
        tags=tags(cell),
        definitions={s.get_name() for s in top if s.is_namespace()},
        constants={name for name in bound if name.isupper()},
        needs=used - bound - set(dir(builtins)),
    )


def load(path):
    """The cells of a notebook, and what is wrong with their ids or their Python."""
    notebook, cells, problems = read(path), [], []
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        problems.append(f"{path}: is not of nbformat 4.5; {NEW_IDS.format(path)}")
    for number, cell in enumerate(notebook.cells):
        cell.setdefault("id", "")
        if not cell.id:
            problems.append(f"{path}: cell {number}: has no id; {NEW_IDS.format(path)}")
        elif cell.id in {c.id for c in cells}:
            problems.append(f"{path}: {cell.id}: this id stands twice; {NEW_IDS.format(path)}")
        try:
            cells.append(parse(path, cell))
        except SyntaxError as error:
            problems.append(f"{path}: {cell.id}: line {error.lineno} is no Python: {error.msg}")
    return cells, problems


def unequal(holders):
    """Shared cells whose source or tags differ from those of the first notebook that has them."""
    for id_, (first, *others) in holders.items():
        for cell in others:
            at, there = f"{cell.path}: {id_}", f"in {first.path}"
            repair = " or ".join(f"{COPY} {c.path} {id_}" for c in (cell, first))
            if cell.source != first.source:
                lines = zip_longest(cell.source.split("\n"), first.source.split("\n"))
                n, a, b = next((n, a, b) for n, (a, b) in enumerate(lines, 1) if a != b)
                yield f"{at}: line {n} is {a!r}, {there} {b!r}; {repair}"
            if cell.tags != first.tags:
                yield f"{at}: tags are {cell.tags}, {there} {first.tags}; {repair}"


def misplaced(notebooks):
    """Shared cells whose order differs between two notebooks."""
    for one, two in combinations(notebooks, 2):
        ids = [[c.id for c in cells if c.shared] for cells in (one, two)]
        orders = [[i for i in a if i in b] for a, b in (ids, reversed(ids))]
        moved = next((b for a, b in zip(*orders) if a != b), None)
        if moved:
            path = two[0].path
            yield f"{path}: {moved}: order differs from {one[0].path}: {orders[0]}; move the cell"


def written_twice(cells, holders):
    """Names defined in more than one place, and cells that look as if they had lost their id."""
    places, lost = defaultdict(list), []
    for cell in cells:
        for id_, (first, *_) in () if cell.shared else holders.items():
            alike = cell.source == first.source or cell.definitions & first.definitions
            if alike and cell.path not in {c.path for c in holders[id_]}:
                lost.append(cell)
                sed = f"""sed -i 's/"id": "{cell.id}"/"id": "{id_}"/' {cell.path}"""
                yield (
                    f"{cell.path}: {cell.id}: is like {id_} in {first.path}; "
                    f"if it lost that id: {sed}; else rename what it defines"
                )
        for name in cell.definitions:
            places[name].append(cell)
    for name, defining in sorted(places.items()):
        shared = {c.id for c in defining if c.shared}
        loose = [c for c in defining if not c.shared and c not in lost]
        if len(shared) > 1:
            yield f"{defining[0].path}: {', '.join(sorted(shared))}: both define {name}; keep one"
        for cell in loose if shared else ():
            yield f"{cell.path}: {cell.id}: defines {name}, as does {min(shared)}; keep one"
        if not shared and len({c.path for c in loose}) > 1:
            where = ", ".join(f"{c.path}: {c.id}" for c in loose)
            yield f"{where}: each defines {name}; make it one shared cell"


def open_cells(notebooks, holders):
    """Shared cells that take a name from a cell that does not come with them."""
    for id_, (first, *others) in holders.items():
        offered = []  # what earlier shared cells give it, notebook by notebook
        for cells in (n for n in notebooks if any(c in n for c in (first, *others))):
            earlier = cells[: [c.id for c in cells].index(id_)]
            offered.append(set().union(*(c.definitions | c.constants for c in earlier if c.shared)))
        for name in sorted(first.needs - set.intersection(*offered)):
            yield (
                f"{first.path}: {id_}: takes {name} from outside; import it or make it an "
                f"argument, then {COPY} {first.path} {id_}"
            )


def check(paths):
    """Lines on what is wrong with the shared cells of these notebooks, and on what is only odd."""
    loaded = [load(str(path)) for path in paths]
    notebooks = [cells for cells, _ in loaded if cells]
    cells = [cell for cells in notebooks for cell in cells]
    holders = defaultdict(list)  # shared id -> its cells, in the notebooks' order
    for cell in filter(lambda cell: cell.shared, cells):
        holders[cell.id].append(cell)
    problems = [line for _, problems in loaded for line in problems]
    problems += unequal(holders)
    problems += misplaced(notebooks)
    problems += written_twice(cells, holders)
    problems += open_cells(notebooks, holders)
    single = [f"{c[0].path}: {id_}: appears once" for id_, c in holders.items() if not c[1:]]
    return problems, single


def copy(source, ids=()):
    """Give the shared cells of `source` to the other notebooks in its folder; what was written."""
    source, copied = Path(source), []
    cells = {cell.id: cell for cell in read(source).cells if cell.id.startswith("shared-")}
    if unknown := set(ids) - set(cells):
        raise SystemExit(f"{source}: no shared cell {', '.join(sorted(unknown))}: {sorted(cells)}")
    for path in sorted(set(source.parent.glob("*.ipynb")) - {source}):
        notebook, changed = read(path), []
        for cell in notebook.cells:
            model = cells.get(cell.id) if not ids or cell.id in ids else None
            if model and (cell.source, tags(cell)) != (model.source, tags(model)):
                cell.source, cell.metadata.tags = model.source, tags(model)  # outputs stay
                changed.append(f"{path}: {cell.id}")
        if changed:
            write(notebook, path)
        copied += changed
    return copied


def main(arguments=None):
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="exit 1 with one line for each problem")
    command.add_argument("notebooks", nargs="*", default=all_notebooks())
    command = commands.add_parser("copy", help="copy shared cells to the other notebooks")
    command.add_argument("notebook", type=Path)
    command.add_argument("ids", nargs="*", metavar="cell-id")
    options = parser.parse_args(arguments)
    if options.command == "copy":
        print(*copy(options.notebook, options.ids) or ["nothing to copy"], sep="\n")
        return 0
    problems, single = check(options.notebooks)
    for line in problems + [f"warning: {line}" for line in single]:
        print(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
