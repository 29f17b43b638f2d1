"""The README and the pages that show results: copied from what the notebooks store, and checked."""

import base64
import re

import pytest
from nbformat.v4 import new_output

import readme
from helpers import ROOT
from mlm.data.text_size import RESULTS
from small_notebooks import code_cell, write_notebook

PNG = base64.b64encode(b"a picture").decode()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the two notebooks that results come from, and the pages that show them."""
    for name in ("notebooks", "docs"):
        (tmp_path / name).mkdir()
    image = new_output("display_data", {"image/png": PNG})
    stored = {
        readme.PICTURE_CELL: [new_output("stream", text="a batch\n"), image],
        readme.PREDICTIONS_CELL: [new_output("stream", text="one\n a\n\ntwo\n\nthree\n\nfour\n")],
        readme.TIME_CELL: [
            new_output("display_data", {"text/plain": "training time    68 s on cpu"})
        ],
        readme.DTYPE_CELL: [new_output("stream", text="matrix products in torch.float32: why\n")],
        readme.CPU_CELL: [
            new_output("display_data", {"text/plain": "CPU   2 cores, x86_64  25 GB"})
        ],
    }
    for notebook in {notebook for notebook, _ in stored}:
        cells = [
            code_cell("1", cell, outputs=outputs)
            for (name, cell), outputs in stored.items()
            if name == notebook
        ]
        path = tmp_path / "notebooks" / f"{notebook}.ipynb"
        write_notebook(path, code_cell("1", "other"), *cells)
    names = {
        "README": "README.md",
        "PICTURE": "docs/masked-batch.png",
        "YOUR_TEXT": "docs/your-text.md",
    }
    for name, path in {"ROOT": "", **names}.items():
        monkeypatch.setattr(readme, name, tmp_path / path)
    (tmp_path / "README.md").write_text(
        "# Title\n<!-- time -->\n<!-- /time -->\n<!-- learned -->\n<!-- /learned -->\nend\n"
    )
    (tmp_path / "docs/your-text.md").write_text("<!-- sizes -->\n<!-- /sizes -->\n")
    return tmp_path


def test_results_are_copied_and_then_checked(project, capsys):
    assert readme.main("check") == 1
    out = capsys.readouterr().out
    for name in ("README.md", "masked-batch.png", "your-text.md"):
        assert f"{name} differs from what the notebooks store: make fix" in out
    assert readme.main("fix") == readme.main("check") == 0
    text = (project / "README.md").read_text()
    assert text.endswith(
        "\n<!-- learned -->\n```text\none\n a\n\ntwo\n\nthree\n```\n<!-- /learned -->\nend\n"
    )
    assert "Training took 68 s on an idle machine (2 cores, x86_64, float32;" in text
    assert (project / "docs/masked-batch.png").read_bytes() == b"a picture"
    assert readme.size_table() in (project / "docs/your-text.md").read_text()


@pytest.mark.parametrize(
    "break_it, words",
    [
        (
            lambda p: (p / "README.md").write_text("# Title\n<!-- time -->\n<!-- /time -->\n"),
            "README.md must contain <!-- learned -->",
        ),
        (
            lambda p: (p / "README.md").write_text("<!-- learned -->\n<!-- /learned -->\n"),
            "README.md must contain <!-- time -->",
        ),
        (
            lambda p: write_notebook(p / "notebooks/01_setup.ipynb", code_cell("1", "devices")),
            "the cell 'devices' of 01_setup.ipynb must store",
        ),
        (
            lambda p: write_notebook(p / "notebooks/05_predict.ipynb"),
            "05_predict.ipynb has no cell",
        ),
        (
            lambda p: write_notebook(p / "notebooks/03_dataset.ipynb", code_cell("1", "batch")),
            "must store one picture, it stores 0",
        ),
    ],
    ids=["no marker", "no time", "no CPU", "no cell", "no picture"],
)
def test_what_is_missing_is_named(project, break_it, words):
    break_it(project)
    with pytest.raises(SystemExit, match=re.escape(words)):
        readme.main("check")


def test_the_committed_pages_are_current(capsys):
    assert readme.main("check") == 0, capsys.readouterr().out


def links(text):
    """The targets of a Markdown text's links and pictures that are files of the project."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)#\s]+)", prose)
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_every_link_leads_to_a_file(path):
    for target in links(path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_table_has_a_row_for_each_result():
    header, _, *rows = readme.size_table().splitlines()
    assert len(rows) == len(RESULTS) + 1
    assert {row.count("|") for row in (header, *rows)} == {header.count("|")}
    for result, row in zip(RESULTS, rows):
        assert f"| {result.text} | " in row and f" -p epochs {result.epochs}` | " in row.replace(
            "`-p", " -p"
        )
        assert (
            f"| {result.valid_loss:.2f} (" in row
            and f"| {result.accuracy:.0%} | {result.seconds} s" in row
        )
    assert header.endswith(
        "| training, Intel CPU, float32 | training, AMD CPU, bfloat16, earlier version |"
    )
