"""The order of the library's modules: complete, and imports run in one direction."""

import ast

import pytest

import modules
from modules import import_closure, imported_modules, listed_purposes, module_order, package_of

TEXTS = modules.library_texts()
ORDER = module_order(TEXTS)


def test_every_module_is_listed_once_in_its_packages_docstring():
    inits = {"__init__.py", *(f"{package_of(name)}/__init__.py" for name in TEXTS if "/" in name)}
    assert sorted(ORDER) == sorted(TEXTS.keys() - inits)
    assert inits <= TEXTS.keys()


@pytest.mark.parametrize("module", sorted(TEXTS))
def test_a_module_imports_only_modules_listed_before_it(module):
    before = ORDER[: ORDER.index(module)] if module in ORDER else []
    assert set(imported_modules(TEXTS[module])) <= set(before)


@pytest.mark.parametrize("module", sorted(TEXTS))
def test_imports_name_a_module_of_the_library_in_full(module):
    """`from mlm.data.corpus import load_corpus`: the form that finds the modules to embed."""
    for node in ast.walk(ast.parse(TEXTS[module])):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, ast.unparse(node)
    assert set(imported_modules(TEXTS[module])) <= TEXTS.keys()


def test_a_closure_has_what_is_imported_directly_or_not():
    texts = {
        "__init__.py": "",
        "a/__init__.py": "",
        "a/one.py": "import torch",
        "a/two.py": "def f():\n    import mlm.a.one",
        "b/__init__.py": "",
        "b/three.py": "from mlm.a.two import f",
        "c.py": "",
    }
    closure = import_closure(["from mlm.b.three import f\nimport os"], texts)
    assert closure == {name: text for name, text in texts.items() if name != "c.py"}
    assert list(import_closure(["from mlm.c import x"], texts)) == ["__init__.py", "c.py"]
    with pytest.raises(SystemExit, match=r"notebooks/mlm/a.py does not exist"):
        import_closure(["from mlm.a import one"], texts)


def test_purposes_are_the_indented_column_of_a_docstring():
    text = '"""A title: with words.\n\none    the first\ntwo    the second, of two\n"""\n'
    assert listed_purposes(text) == {"one": "the first", "two": "the second, of two"}
    assert listed_purposes("x = 1") == {}
