"""Draw the library's structure, from its code, into docs/architecture.md.

    python tools/architecture.py check    exit 1 if the file differs from the code
    python tools/architecture.py fix      write it, between <!-- generated --> and <!-- /generated -->

Three parts: which subpackage imports which, what each module is for (from the docstrings of the
__init__.py files), and which modules the cells of 04 call, in order.
"""

import sys
from collections.abc import Iterable

from blocks import with_block
from library import code_sources
from modules import imported_modules, library_texts, listed_purposes, package_of
from notebooks import ROOT, all_notebooks, read, visible_code_cells

PAGE = ROOT / "docs" / "architecture.md"
EMPTY_PAGE = "# Architecture\n\n<!-- generated -->\n<!-- /generated -->\n"
TRAINING = ROOT / "notebooks" / "04_train.ipynb"

Graph = dict[str, set[str]]


def unit_of(module: str) -> str:
    """The box of the diagram that a module is in: its subpackage, or itself where it is in none."""
    return package_of(module) or module.removesuffix(".py")


def package_imports(texts: dict[str, str]) -> Graph:
    """{subpackage: the subpackages that it imports}."""
    graph: Graph = {unit_of(module): set() for module in texts if module != "__init__.py"}
    for module, text in texts.items():
        if module != "__init__.py":
            graph[unit_of(module)] |= {unit_of(name) for name in imported_modules(text)}
    return {unit: imported - {unit} for unit, imported in graph.items()}


def reachable(graph: Graph, starts: Iterable[str]) -> set[str]:
    """Everything that can be reached from these nodes in one or more steps."""
    found: set[str] = set()
    to_visit = [node for start in starts for node in graph[start]]
    while to_visit:
        node = to_visit.pop()
        if node not in found:
            found.add(node)
            to_visit += graph[node]
    return found


def without_implied(graph: Graph) -> Graph:
    """The graph without the edges that are implied by longer paths (its transitive reduction)."""
    return {node: targets - reachable(graph, targets) for node, targets in graph.items()}


def import_diagram(texts: dict[str, str]) -> str:
    """A Mermaid graph of the subpackages, with their modules. An arrow means "imports"."""
    graph = without_implied(package_imports(texts))
    lines = ["flowchart LR"]
    for unit in listed_purposes(texts["__init__.py"]):
        modules = list(listed_purposes(texts.get(f"{unit}/__init__.py", "")))
        rows = [" · ".join(modules[start : start + 3]) for start in range(0, len(modules), 3)]
        lines.append(f'    {unit}["{"<br/>".join([f"<b>{unit}</b>", *rows])}"]')
    lines += [f"    {unit} --> {target}" for unit in graph for target in sorted(graph[unit])]
    return "\n".join(["```mermaid", *lines, "```"])


def module_list(texts: dict[str, str]) -> str:
    """Each subpackage with its purpose, the notebooks that import it, and its modules."""
    imports = {
        path.name[: path.name.index("_")]: {
            unit_of(module)
            for source in code_sources(read(path))
            for module in imported_modules(source)
        }
        for path in all_notebooks()
    }
    lines = []
    for unit, purpose in listed_purposes(texts["__init__.py"]).items():
        users = ", ".join(number for number, units in imports.items() if unit in units)
        lines.append(f"**`{unit}`** {purpose}. Imported by {users or 'no notebook'}.\n")
        for module, about in listed_purposes(texts.get(f"{unit}/__init__.py", "")).items():
            lines.append(f"- [`{module}`](../notebooks/mlm/{unit}/{module}.py) {about}")
        lines.append("")
    return "\n".join(lines).rstrip()


def training_diagram() -> str:
    """A Mermaid graph of the cells of 04 that call the library, in order, with the modules they import."""
    steps = {}
    for cell in visible_code_cells(read(TRAINING)):
        if modules := [name.removesuffix(".py") for name in imported_modules(cell.source)]:
            steps[cell.id] = list(dict.fromkeys(modules))
    lines = ["flowchart TD"]
    for number, (cell, modules) in enumerate(steps.items()):
        rows = [", ".join(modules[start : start + 3]) for start in range(0, len(modules), 3)]
        lines.append(f'    step{number}["{"<br/>".join([f"<b>{cell}</b>", *rows])}"]')
    lines += [f"    step{number} --> step{number + 1}" for number in range(len(steps) - 1)]
    return "\n".join(["```mermaid", *lines, "```"])


def generated() -> str:
    """The generated part of docs/architecture.md."""
    texts = library_texts()
    return "\n\n".join(
        [
            "Imports between the subpackages. An arrow means *imports*; arrows that longer paths imply are left out.",
            import_diagram(texts),
            "What each module is for, in import order: no module imports one that is listed after it.",
            module_list(texts),
            "The cells of [04_train](../notebooks/04_train.ipynb) that call the library, from the text to the "
            "saved model, with the modules that each imports.",
            training_diagram(),
        ]
    )


def main(command: str) -> int:
    """Check or fix; the exit status."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else EMPTY_PAGE
    expected = with_block(text, "generated", generated(), PAGE.name)
    if PAGE.exists() and text == expected:
        return 0
    if command == "fix":
        PAGE.write_text(expected, encoding="utf-8")
        print(f"{PAGE.name}: written")
        return 0
    print(f"{PAGE.name} differs from the code: make fix")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
