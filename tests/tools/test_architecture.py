"""The generated page about the library's structure, and the blocks that tools write into Markdown files."""

import re

import pytest

import architecture
import figures
import modules
from blocks import with_block

TEXTS = {
    "__init__.py": '"""Library.\n\nenv   the machine\ndata  a text\nmain  all of it\n"""',
    "env/__init__.py": '"""Env.\n\nfiles  writes\n"""',
    "env/files.py": "",
    "data/__init__.py": '"""Data.\n\ncorpus  reads\nmasks   hides\n"""',
    "data/corpus.py": "from mlm.env.files import write",
    "data/masks.py": "from mlm.data.corpus import load",
    "main.py": "from mlm.data.masks import mask\nfrom mlm.env.files import write",
}


def test_the_graph_of_subpackages_is_that_of_the_imports():
    graph = architecture.package_imports(TEXTS)
    assert graph == {"env": set(), "data": {"env"}, "main": {"data", "env"}}
    assert architecture.without_implied(graph)["main"] == {"data"}


def test_the_diagram_has_each_subpackage_with_its_modules_and_its_imports():
    lines = architecture.import_diagram(TEXTS).splitlines()
    assert lines[0] == "```mermaid" and lines[-1] == "```"
    assert '    data["<b>data</b><br/>corpus · masks"]' in lines
    assert [line.strip() for line in lines if "-->" in line] == ["data --> env", "main --> data"]


def test_the_list_names_every_module_of_the_library():
    listed = re.findall(r"\(\.\./notebooks/mlm/(\S+)\)", architecture.generated())
    order = modules.module_order(modules.library_texts())
    assert listed == [name for name in order if "/" in name]


def test_the_training_diagram_has_the_cells_of_04_in_order():
    diagram = architecture.training_diagram()
    cells = re.findall(r"<b>([\w-]+)</b>", diagram)
    assert cells[0] == "check" and cells.index("corpus") < cells.index("train")
    assert diagram.count("-->") == len(cells) - 1


def test_the_committed_page_is_current(capsys):
    assert architecture.main("check") == 0, capsys.readouterr().out


def test_a_missing_page_is_created_and_other_text_is_kept(tmp_path, monkeypatch, capsys):
    page = tmp_path / "architecture.md"
    monkeypatch.setattr(architecture, "PAGE", page)
    assert architecture.main("check") == 1
    assert architecture.main("fix") == architecture.main("check") == 0
    page.write_text(f"{page.read_text()}\nMore.\n".replace("mermaid", "mermaids"))
    assert architecture.main("check") == 1
    assert architecture.main("fix") == 0 and page.read_text().endswith("\nMore.\n")


def test_a_block_is_replaced_between_its_markers():
    text = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n"
    assert with_block(text, "x", r"new \1", "a.md") == (
        "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter\n"
    )


@pytest.mark.parametrize(
    "text", ["", "<!-- x -->", "<!-- /x --> <!-- x -->", 2 * "<!-- x --><!-- /x -->"]
)
def test_missing_markers_are_named(text):
    with pytest.raises(
        SystemExit, match=r"a.md must contain <!-- x --> and <!-- /x -->, once each"
    ):
        with_block(text, "x", "new", "a.md")


def test_the_report_has_a_row_per_notebook_and_the_longest_modules(capsys):
    assert figures.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(".ipynb" in line for line in lines) == len(figures.all_notebooks())
    assert sum(line.endswith(".py") for line in lines) == figures.LONGEST
