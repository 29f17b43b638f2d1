"""Stored outputs: they come from one run, and nbval compares later runs with them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbval.plugin import get_sanitize_patterns

import notebooks
import store_outputs
from helpers import ROOT
from small_notebooks import code_cell, write_notebook

SANITIZE = ROOT / "tests" / "sanitize.cfg"


@pytest.mark.parametrize(
    "text, displayed",
    [
        ("plain\nlines \n", "plain\nlines \n"),
        ("\r 10%|#  |\r100%|###| done\n", "100%|###| done\n"),
        ("long line\rshort\n", "shortline\n"),
        ("\r 50%|#\r      \r", ""),  # a bar that removes itself
        ("dos\r\nunix\n", "dos\nunix\n"),
    ],
)
def test_streams_are_stored_as_a_terminal_displays_them(text, displayed):
    assert store_outputs.as_displayed(text) == displayed


VOLATILE = """
import sys, time, uuid
from IPython.display import HTML, display
for done in range(3):
    bar = f"{done}0%|##| {done}/3 {time.perf_counter():.3f}it/s"
    print("\\r" + bar, end="", file=sys.stderr, flush=True)
    time.sleep(0.25)  # ipykernel sends what was written every 0.2 s
print(file=sys.stderr, flush=True)
seconds = time.perf_counter()
print(f"{seconds % 100:.1f} s, {seconds * 1e3:,.0f} tokens/s, {seconds / 99:.2f} GB")
print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {seconds / 1e5:.2f}x  {object()}")
display(HTML(f'<table id="T_{uuid.uuid4().hex[:5]}"><tr><td>{seconds:.1f} s</td></tr></table>'))
"""
IMAGE = """
import os
from IPython.display import Image, display
display(Image(b"\\x89PNG\\r\\n\\x1a\\n" + os.urandom(32), format="png", width=3, height=3))
"""
CELLS = {  # id: (source, tags, result of nbval --nbval-lax, result of strict nbval)
    "checked": ("(2, 3)", ["nbval-check-output"], "passed", "passed"),
    "changed_checked": ("print('loss 4.61', epochs)", ["nbval-check-output"], "failed", "failed"),
    "changed": ("print('loss 4.61')", [], "passed", "failed"),
    "volatile": (VOLATILE, [], "passed", "passed"),
    "image": (IMAGE, [], "passed", "passed"),
    "random": ("os.urandom(8)", ["nbval-ignore-output"], "passed", "passed"),
    "installs": ("raise RuntimeError", ["skip-execution", "nbval-skip"], "skipped", "skipped"),
}
LAX = ["--nbval-lax"]
STRICT = ["--nbval", "--nbval-sanitize-with", str(SANITIZE)]


def store(path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run tools/store_outputs.py from another folder than the notebook's."""
    command = [sys.executable, ROOT / "tools/store_outputs.py", path, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NotebookNode]:
    """(path of a notebook with the stored outputs of a run with `epochs=5`, the notebook before)."""
    path = tmp_path_factory.mktemp("stored") / "notebook.ipynb"
    cells = [code_cell(source, id, *tags) for id, (source, tags, *_) in CELLS.items()]
    write_notebook(path, code_cell("epochs: int = 1  # passes", "parameters", "parameters"), *cells)
    before = notebooks.read(path)
    run = store(path, "-p", "epochs", "5")
    assert run.returncode == 0, run.stderr
    return path, before


@pytest.mark.slow
def test_only_outputs_and_counts_change(stored):
    path, before = stored
    after = notebooks.read(path)
    outputs = {cell.id: cell.outputs for cell in after.cells}
    assert [c.execution_count for c in after.cells] == [1, 2, 3, 4, 5, 6, 7, None]
    assert outputs["checked"][0].execution_count == 2 and outputs["checked"][0].data
    assert outputs["changed_checked"][0].text == "loss 4.61 5\n"
    assert re.fullmatch(r"20%\|##\| 2/3 \S+it/s\n", outputs["volatile"][0].text)
    assert [o.output_type for o in outputs["volatile"]] == ["stream", "stream", "display_data"]
    for cell in after.cells:
        cell.outputs, cell.execution_count = [], None
    assert after == before


@pytest.mark.slow
def test_a_failing_run_leaves_the_notebook_unchanged(tmp_path):
    path = write_notebook(
        tmp_path / "fails.ipynb", code_cell("print('new')", "works"), code_cell("1 / 0", "fails")
    )
    before = path.read_bytes()
    run = store(path)
    assert run.returncode != 0 and "ZeroDivisionError" in run.stderr
    assert "is unchanged: the run failed" in run.stderr
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("column, options", [(2, LAX), (3, STRICT)], ids=["lax", "strict"])
def test_nbval_compares_the_tagged_outputs_or_all(stored, tmp_path, column, options):
    notebook = notebooks.read(stored[0])
    for cell in notebook.cells:
        if cell.id.startswith("changed"):
            cell.outputs[0].text = cell.outputs[0].text.replace("4.61", "4.62")
    notebook.cells[0].source = "epochs: int = 5  # as in the stored run"
    notebooks.write(notebook, tmp_path / "notebook.ipynb")
    flags = ["-v", "-p", "no:cacheprovider", "--rootdir=.", *options]
    command = [sys.executable, "-m", "pytest", *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    results = re.findall(r"::Cell \d+ ([A-Z]+) ", run.stdout)
    expected = ["passed", *(cell[column] for cell in CELLS.values())]
    assert [result.lower() for result in results] == expected, run.stdout


def sanitized(text: str) -> str:
    """What strict nbval compares of a text."""
    for regex, replacement in get_sanitize_patterns(SANITIZE.read_text()):
        text = re.sub(regex, replacement, text)
    return text


@pytest.mark.parametrize(
    "one, other",
    [
        ("took 9.8 s", "took 12.3 s"),
        ("1 min 2 s left", "59 seconds left"),
        ("0.5 ms", "1.25e-3 s"),
        ("1,234 tokens/s", "987.6 tokens/s"),
        ("480 real tokens per second", "1,480 real tokens per second"),
        ("390 GFLOP/s", "175.5 GFLOP/s"),
        ("v_num=0, 12.5it/s", "v_num=0, 9it/s"),
        ("peak 1.5 GB of 16 GiB", "peak 812 MB of 15.9 GiB"),
        ("2.31x, 1.9× and 4.0 times", "2.28x, 2.0× and 4.1 times"),
        ("at 2026-01-31 12:30:05", "at 2027-12-01T00:00:00.123Z"),
        ("elapsed 0:12", "elapsed 01:00:12"),
        ("<function f at 0x7fab12345678>", "<function f at 0x10c0ffee0>"),
        ('#T_0a1b2_row0_col1 <table id="T_0a1b2">', '#T_fedcb_row0_col1 <table id="T_fedcb">'),
        ("  5%|     | 1/20 [00:00<00:01, 19.5it/s]", "100%|████| 20/20 [00:01<00:00, 20it/s]"),
        ("/tmp/ipykernel_12/345.py:2: Warn", "/tmp/ipykernel_6/345678.py:2: Warn"),
        ("step   time\n1     9.8 s\n", "step    time\n1     12.3 s\n"),
    ],
)
def test_the_sanitizer_hides_what_differs_between_runs(one, other):
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("loss 4.61", "loss 4.62"),
        ("600,901 bytes", "600,902 bytes"),
        ("151,156 tokens", "151,157 tokens"),
        ("(8, 128) int64", "(8, 64) int64"),
        ("8 x 128", "8 x 64"),
        ("accuracy 28%", "accuracy 29%"),
        ("15.0% masked", "15.1% masked"),
        ("epoch 1, 30 steps", "epoch 1, 31 steps"),
        ("torch 2.9.1", "torch 2.9.0"),
        ("-0.5", "0.5"),
        ("identical: True", "identical: False"),
        ("sha256 23cf6987", "sha256 23cf6988"),
    ],
)
def test_the_sanitizer_hides_nothing_else(one, other):
    assert sanitized(one) != sanitized(other)
