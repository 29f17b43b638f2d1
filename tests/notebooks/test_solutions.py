"""docs/solutions.md: every exercise has a solution, and every solution is executed.

One process per notebook runs the cells that the checks need, first as they are. Then it applies each
solution as a reader does: it edits cells, runs them and those below again, and runs the check.
"""

import dis
import re
import textwrap
from collections.abc import Iterator
from types import CodeType
from typing import Any

import nbformat
import pytest

from helpers import NOTEBOOKS, ROOT
from processes import english_text, finish, start
from small_notebooks import code_cell, write_notebook

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "solutions.md"
PATHS = {path.stem.partition("_")[0]: path for path in NOTEBOOKS}  # by number: "01", ..., "03b"
TINY = {"corpus": "my_text.txt", "model": "scratch:tiny"}
SMALL: dict[str, dict[str, Any]] = {  # parameters of the notebooks
    "01": {"gpus": 0, "tpu_cores": 0},
    "02": {"corpus": "pydoc"},
    "03": TINY,
    "03b": TINY,
    "04": {**TINY, "batch_size": 8, "max_steps": 16},
    "05": TINY,
    "06": {**TINY, "batch_size": 4, "steps": 2, "repeats": 1, "precision": "32"},
    "07": {**TINY, "finetune_steps": 2},
}
QUICKER = {("01", 3): ("64, 128, 256, 512, 1024, 2048", "64,")}  # replacements in solutions

# the page

CELL = r"cell `([\w-]+)`(?: \([^)]*\))?"
BLOCK = r"\n\n```python\n(.*?)\n```"
EDITS = {  # what a solution says about a cell
    "replace": rf"In {CELL}, replace{BLOCK}\n\nby{BLOCK}",
    "insert": rf"At the beginning of {CELL}, insert{BLOCK}",
    "set": rf"In cell `(parameters)`, set{BLOCK}",
    "add": rf"In a new cell after {CELL}, run{BLOCK}",
    "error": r"Cell `([\w-]+)` stops with an error",
}
CHECK = r"```python\n(# check\b.*?)\n```"
LINK = r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)"  # to a test that proves a solution in words


def solutions() -> dict[tuple[str, int], str]:
    """{(notebook, exercise): text of its solution}, in the order of the page."""
    parts = re.split(r"^## (\w+), exercise (\d+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    texts = {(parts[i], int(parts[i + 1])): parts[i + 2] for i in range(1, len(parts), 3)}
    for exercise, (old, new) in QUICKER.items():
        assert old in texts[exercise]
        texts[exercise] = texts[exercise].replace(old, new)
    return texts


def exercises(notebook: str) -> list[tuple[str, int]]:
    """The exercises in the last cell of a notebook, as (notebook, number)."""
    (recap,) = (c.source for c in nbformat.read(PATHS[notebook], 4).cells if c.id == "recap")
    _, statements = re.split(r"^(?:#+ |\*\*)Exercises.*$", recap, flags=re.MULTILINE)
    return [
        (notebook, int(number)) for number in re.findall(r"^(\d+)\. ", statements, re.MULTILINE)
    ]


def edited_cells(text: str, cells: dict[str, str]) -> dict[str, str]:
    """The cells that a solution changes, as {id: new source}. A new cell extends the one before it."""
    edited: dict[str, str] = {}
    for kind, pattern in EDITS.items():
        for match in re.finditer(pattern, text, re.DOTALL):
            cell, *blocks = match.groups()
            source = edited.get(cell, cells[cell])
            if kind == "replace":
                old, new = blocks
                assert source.count(old) == 1, f"cell {cell} must contain this once:\n{old}"
                edited[cell] = source.replace(old, new)
            elif kind == "insert":
                edited[cell] = f"{blocks[0]}\n{source}"
            elif kind == "error":
                body = textwrap.indent(source, "    ")
                edited[cell] = f"try:\n{body}\nexcept ValueError as e:\n    error = str(e)"
            else:
                edited[cell] = f"{source}\n{blocks[0]}"
            if kind == "set":
                for name in re.findall(r"^(\w+) = ", blocks[0], re.MULTILINE):
                    assert f"\n{name}: " in source, f"{name} is not a parameter"
    return edited


# which cells a check needs


def names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell reads (in functions as well), and those that it assigns."""

    def instructions(code: CodeType) -> Iterator[dis.Instruction]:
        yield from dis.get_instructions(code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from instructions(constant)

    reads, writes = set(), set()
    for instruction in instructions(compile(source, "cell", "exec")):
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            reads.add(instruction.argval)
        elif instruction.opname == "STORE_NAME":
            writes.add(instruction.argval)
    return reads, writes


def needed_cells(cells: dict[str, str], check: str) -> set[str]:
    """The ids of the cells that define what a check reads, directly or for one another."""
    reads, writes = names(check)
    needed, wanted = set(), reads - writes
    for cell, source in reversed(cells.items()):
        reads, writes = names(source)
        if writes & wanted:
            needed.add(cell)
            wanted = wanted - writes | reads
    return needed


# the tests


def test_every_exercise_has_a_solution_and_every_solution_an_exercise():
    assert list(solutions()) == [exercise for number in PATHS for exercise in exercises(number)]


def test_every_solution_has_a_check_or_names_a_test():
    for (notebook, number), text in solutions().items():
        if not re.search(CHECK, text, re.DOTALL):
            links = re.findall(LINK, text)
            assert links, f"{notebook}, exercise {number}"
            for name, path in links:
                assert f"def {name}(" in (ROOT / path).read_text()


def session(notebook: str, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """The cells that check a notebook's solutions, as (id, source) in the order of execution.

    The checks find the values from before the edits in `unedited`.
    """
    code = (c for c in nbformat.read(PATHS[notebook], 4).cells if c.cell_type == "code")
    cells = {cell.id: cell.source for cell in code}
    values = [f"{name} = {value!r}" for name, value in parameters.items()]
    cells["parameters"] = "\n".join([cells["parameters"], *values])
    texts = {number: text for (name, number), text in solutions().items() if name == notebook}
    checks = {number: re.search(CHECK, text, re.DOTALL) for number, text in texts.items()}
    codes = {number: check[1] for number, check in checks.items() if check}

    # What edited cells read counts as well: an edited cell runs even if its check does not need it.
    wanted = {
        number: "\n".join([*edited_cells(texts[number], cells).values(), check])
        for number, check in codes.items()
    }
    unedited = {"library"}.union(*(needed_cells(cells, source) for source in wanted.values()))
    steps = [(cell, source) for cell, source in cells.items() if cell in unedited]
    steps.append(("unedited", "unedited = dict(globals())"))
    edited_before: set[str] = set()
    for number, check in codes.items():
        edited = edited_cells(texts[number], cells)
        needed = needed_cells({**cells, **edited}, wanted[number]) | edited.keys()
        order = [cell for cell in cells if cell in needed]
        first = next(i for i, c in enumerate(order) if c in edited or c in edited_before)
        for cell in order[first:]:
            steps.append((f"exercise-{number}-{cell}", edited.get(cell, cells[cell])))
        steps.append((f"exercise-{number}-solved", check))
        edited_before = set(edited)
    return steps


@pytest.mark.parametrize("notebook", PATHS)
def test_the_edits_do_what_the_solutions_say(tmp_path, notebook):
    english_text(tmp_path).rename(tmp_path / "my_text.txt")
    steps = session(notebook, SMALL[notebook])
    cells = [code_cell(source, cell) for cell, source in steps]
    finish(start(tmp_path, write_notebook(tmp_path / "solutions.ipynb", *cells)))


def test_training_again_after_an_edit_begins_with_untrained_weights(tmp_path):
    """04 says: new run_name, check the parameters, change `MaskedLM`, run it and the cells below."""
    english_text(tmp_path).rename(tmp_path / "my_text.txt")
    code = (c for c in nbformat.read(PATHS["04"], 4).cells if c.cell_type == "code")
    cells = {cell.id: cell.source for cell in code}
    for name, value in SMALL["04"].items():
        cells["parameters"] += f"\n{name} = {value!r}"
    ids = list(cells)
    checked = next(id for id in ids if "check_parameters(" in cells[id] and id != "library")
    until_train = ids[: ids.index("train") + 1]
    again = checked, *until_train[ids.index("module") :]
    compare = """
assert run.folder != first.folder and run.step == first.step
assert run.history[0] == first.history[0]  # the validation loss before training
assert run.kept["loss"] == first.kept["loss"]
"""
    steps = [
        *(code_cell(cells[id], id) for id in until_train),
        code_cell('first, run_name = run, "second"', "new-name"),
        *(code_cell(cells[id], f"again-{id}") for id in again),
        code_cell(compare, "compare"),
    ]
    finish(start(tmp_path, write_notebook(tmp_path / "edited.ipynb", *steps)))
