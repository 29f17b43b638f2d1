"""The modules of the library: what they import, and what their packages' docstrings say about them.

Modules are named by their path below notebooks/mlm/: "data/corpus.py".
"""

import ast
import re
from collections.abc import Iterable
from functools import cache

from notebooks import ROOT

LIBRARY = ROOT / "notebooks" / "mlm"


def library_texts() -> dict[str, str]:
    """{module: text} of the whole library, in alphabetical order."""
    paths = sorted(LIBRARY.rglob("*.py"))
    return {path.relative_to(LIBRARY).as_posix(): path.read_text("utf-8") for path in paths}


@cache
def imported_modules(text: str) -> tuple[str, ...]:
    """The modules of the library that a Python source imports, at its top or in its functions."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = (name.split(".") for name in names)
    return tuple("/".join(below) + ".py" for first, *below in parts if first == "mlm" and below)


def import_closure(sources: Iterable[str], texts: dict[str, str]) -> dict[str, str]:
    """{module: text} of all modules that Python sources import, directly or through other modules.

    Packages' own __init__.py files are included. Raises SystemExit for a module that does not exist.
    """
    to_visit = [name for source in sources for name in imported_modules(source)]
    found = {"__init__.py"}
    while to_visit:
        name = to_visit.pop()
        if name not in texts:
            raise SystemExit(f"notebooks/mlm/{name} does not exist, but is imported")
        if name not in found:
            found |= {name, f"{package_of(name)}/__init__.py"} & texts.keys()
            to_visit += imported_modules(texts[name])
    return {name: text for name, text in texts.items() if name in found}


def package_of(module: str) -> str:
    """The subpackage of a module: "data" for "data/corpus.py", "" for "__init__.py"."""
    return module.rpartition("/")[0]


def listed_purposes(init_text: str) -> dict[str, str]:
    """{name: purpose} of the modules or packages that an __init__.py lists in its docstring."""
    docstring = ast.get_docstring(ast.parse(init_text)) or ""
    return dict(re.findall(r"^(\w+) {2,}(\S.*)$", docstring, re.MULTILINE))


def module_order(texts: dict[str, str]) -> list[str]:
    """All modules in the order in which the docstrings of the __init__.py files list them.

    A module may import only modules that come before it in this order.
    """
    order = []
    for name in listed_purposes(texts["__init__.py"]):
        if f"{name}/__init__.py" in texts:
            listed = listed_purposes(texts[f"{name}/__init__.py"])
            order += [f"{name}/{module}.py" for module in listed]
        else:
            order.append(f"{name}.py")
    return order
