"""What keeps the notebooks true to one another: tools/, and nbval as CI uses it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns

import notebooks
import store_outputs
import structure

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = ROOT / "tests" / "sanitize.cfg"


def code(source, id, *tags, outputs=()):
    """A code cell."""
    return new_code_cell(source, id=id, metadata={"tags": list(tags)}, outputs=list(outputs))


def save(path, *cells):
    """Write a notebook of these cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebooks.write(new_notebook(metadata={"kernelspec": kernel}, cells=list(cells)), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)


def change(path, **sources):
    """Give cells of a notebook, named by their ids with _ for -, another source."""
    notebook = notebooks.read(path)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id.replace("-", "_"), cell.source)
    notebooks.write(notebook, path)


# structure

PARAMETERS = 'epochs: int = 1  # times through the corpus\nname: str = "run"  # its folder'


def write_lawful(*extra):
    """A notebook that is as it should be, but for these cells after it."""
    cells = [
        new_markdown_cell("# Title", id="title"),
        code(PARAMETERS, "parameters", "parameters"),
        code("CARRIED = {}\n" * 100, "library"),
        code('check_parameters(globals(), "lawful")', "check"),
        *extra,
    ]
    cells[2].metadata.jupyter = {"source_hidden": True}
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    return save(Path("lawful.ipynb"), *cells)


def test_structure_passes_a_lawful_notebook(folder, capsys):
    write_lawful(
        code("'a/tmp/b', 'http://host/tmp/x'", "x", outputs=[new_output("stream", text="12")])
    )
    assert structure.main(["lawful.ipynb"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "cell, problem",
    [
        (code("  ", "x"), "is empty"),
        (code("pass\n" * 41, "x"), "has 41 lines"),
        (code("open('/tmp/x')", "x"), "path of one machine: /tmp/x"),
        (code("", "x", outputs=[new_output("stream", text="in /root/y\n")]), "machine: /root/y"),
        (code("1 / 0", "x", outputs=[new_output("error", ename="E", evalue="")]), "an error"),
        (code("1", "x", "nbval-check-ouput"), "tags that mean nothing"),
        (code("1", "x", "nbval-check-output"), "nothing is compared"),
        (new_code_cell("1", id="x", metadata={"collapsed": True}), "has metadata ['collapsed']"),
    ],
)
def test_structure_finds_what_is_wrong_with_a_cell(folder, cell, problem):
    assert problem in "\n".join(structure.problems(write_lawful(cell)))


@pytest.mark.parametrize(
    "source, problem",
    [
        ("epochs = 1  # how often", "is not `name: type = value"),
        ("print(1)", "is not `name: type = value"),
        ("epochs: int = 1", "epochs has no comment"),
        ("epochs: int | None = 1  # how often", "papermill misreads 'epochs: int | None"),
        ("name: str = 'a#b'  # meaning", "papermill misreads"),
    ],
)
def test_structure_finds_what_is_wrong_with_parameters(folder, source, problem):
    change(write_lawful(), parameters=source)
    (line,) = structure.problems("lawful.ipynb")
    assert line.startswith("lawful.ipynb: parameters: ") and problem in line


def test_structure_finds_what_is_wrong_with_a_notebook(folder):
    save(Path("a.ipynb"), new_markdown_cell("# A", id="title"), code("1", "one"))
    found = "\n".join(structure.problems("a.ipynb"))
    assert "one cell is tagged parameters" in found
    assert "not those of one run from top to bottom" in found
    notebook = notebooks.read(write_lawful())
    notebook.metadata.papermill = {}
    notebooks.write(notebook, "lawful.ipynb")
    change("lawful.ipynb", title="Title", check="x = 1")
    found = "\n".join(structure.problems("lawful.ipynb"))
    for problem in [
        "metadata ['papermill']",
        "begin with a title",
        "come the library cell and a cell",
    ]:
        assert problem in found
    notebook.metadata = {}
    notebooks.write(notebook, "lawful.ipynb")
    found = "\n".join(structure.problems("lawful.ipynb"))
    assert "kernelspec is not python3" in found


# the repository's own notebooks


def test_a_notebook_is_no_longer_than_a_class_reads(folder):
    extra = [code("pass\n" * 40, f"x-{n}") for n in range(7)]
    assert "lines of code in sight, 260 are the most" in "\n".join(
        structure.problems(write_lawful(*extra))
    )


def test_the_notebooks_have_their_form(capsys):
    assert structure.main([]) == 0, capsys.readouterr().out


# stored outputs, and nbval in both ways


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain\nlines \n", "plain\nlines \n"),
        ("\r 10%|#  |\r100%|###| done\n", "100%|###| done\n"),
        ("long line\rshort\n", "shortline\n"),
        ("\r 50%|#\r      \r", ""),  # a bar that cleans up after itself
        ("dos\r\nunix\n", "dos\nunix\n"),
    ],
)
def test_streams_are_stored_as_a_terminal_shows_them(text, shown):
    assert store_outputs.as_shown(text) == shown


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
CELLS = {  # what the two ways of nbval, lax and strict, shall say of each
    "law": ("(2, 3)", ["nbval-check-output"], "passed", "passed"),
    "drifted-law": ("print('loss 4.61', epochs)", ["nbval-check-output"], "failed", "failed"),
    "drifted": ("print('loss 4.61')", [], "passed", "failed"),
    "volatile": (VOLATILE, [], "passed", "passed"),
    "image": (IMAGE, [], "passed", "passed"),
    "random": ("os.urandom(8)", ["nbval-ignore-output"], "passed", "passed"),
    "installs": ("raise RuntimeError", ["skip-execution", "nbval-skip"], "skipped", "skipped"),
}
LAX = ["--nbval-lax"]
STRICT = ["--nbval", "--nbval-sanitize-with", str(SANITIZE)]


def store(path, *arguments):
    """Run tools/store_outputs.py from another folder than the notebook's."""
    command = [sys.executable, ROOT / "tools/store_outputs.py", path, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A notebook with stored outputs of a run with `epochs=5`, and the notebook as it was."""
    path = tmp_path_factory.mktemp("stored") / "notebook.ipynb"
    cells = [code(source, id, *tags) for id, (source, tags, *_) in CELLS.items()]
    save(path, code("epochs: int = 1  # how often", "parameters", "parameters"), *cells)
    before = notebooks.read(path)
    run = store(path, "-p", "epochs", "5")
    assert run.returncode == 0, run.stderr
    return path, before


def test_store_outputs_changes_outputs_and_counts_only(stored):
    path, before = stored
    after = notebooks.read(path)
    outputs = {cell.id: cell.outputs for cell in after.cells}
    assert [c.execution_count for c in after.cells] == [1, 2, 3, 4, 5, 6, 7, None]
    assert outputs["law"][0].execution_count == 2 and outputs["law"][0].data
    assert outputs["drifted-law"][0].text == "loss 4.61 5\n"
    assert re.fullmatch(r"20%\|##\| 2/3 \S+it/s\n", outputs["volatile"][0].text)
    assert [o.output_type for o in outputs["volatile"]] == ["stream", "stream", "display_data"]
    for cell in after.cells:
        cell.outputs, cell.execution_count = [], None
    assert after == before


def test_store_outputs_leaves_the_notebook_when_the_run_fails(tmp_path):
    path = save(tmp_path / "fails.ipynb", code("print('new')", "fine"), code("1 / 0", "fails"))
    before = path.read_bytes()
    run = store(path)
    assert run.returncode != 0 and "ZeroDivisionError" in run.stderr
    assert "left as it was" in run.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("way, options", [(2, LAX), (3, STRICT)], ids=["lax", "strict"])
def test_nbval_compares_what_is_marked_or_everything(stored, tmp_path, way, options):
    notebook = notebooks.read(stored[0])
    for cell in notebook.cells:
        if cell.id.startswith("drifted"):
            cell.outputs[0].text = cell.outputs[0].text.replace("4.61", "4.62")
    notebook.cells[0].source = "epochs: int = 5  # as in the stored run"
    notebooks.write(notebook, tmp_path / "notebook.ipynb")
    flags = ["-v", "-p", "no:cacheprovider", "--rootdir=.", *options]
    command = [sys.executable, "-m", "pytest", *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = re.findall(r"::Cell \d+ ([A-Z]+) ", run.stdout)
    expected = ["passed", *(cell[way] for cell in CELLS.values())]
    assert [word.lower() for word in said] == expected, run.stdout


def sanitized(text):
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
def test_sanitizer_hides_what_differs_between_runs(one, other):
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
def test_sanitizer_hides_nothing_else(one, other):
    assert sanitized(one) != sanitized(other)
