"""What keeps the notebooks true to one another: tools/, and nbval as CI uses it."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
import shared_cells
import store_outputs
import structure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ROOT / "tests" / "sanitize.cfg"
NOTEBOOKS = shared_cells.all_notebooks()


def code(source, id, *tags, outputs=()):
    """A code cell."""
    return new_code_cell(source, id=id, metadata={"tags": list(tags)}, outputs=list(outputs))


def save(path, *cells):
    """Write a notebook of these cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    shared_cells.write(new_notebook(metadata={"kernelspec": kernel}, cells=list(cells)), path)
    return path


def change(path, **sources):
    """Give cells of a notebook, named by their ids with _ for -, another source."""
    notebook = shared_cells.read(path)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id.replace("-", "_"), cell.source)
    shared_cells.write(notebook, path)


READ = "import re\n\nPATTERN = re.compile('a')\n\ndef read(path, limit):\n    return path, limit"
USE = "def use(path):\n    return [read(p, PATTERN) for p in path]"


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Two notebooks that share two cells, the second of which uses the first."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        seen = new_output("stream", text=f"seen in {name}\n")
        save(
            Path(f"{name}.ipynb"),
            new_markdown_cell(f"# Notebook {name}", id="title"),
            code(READ, "shared-read", "nbval-check-output", outputs=[seen]),
            code(f"def own_{name}():\n    return settings\n\nsettings = own_{name}", f"own-{name}"),
            code(USE, "shared-use"),
        )
    return ["a.ipynb", "b.ipynb"]


def the_problem(paths):
    """The one problem that the check finds."""
    (line,) = shared_cells.check(paths)[0]
    return line


# shared cells: the check


def test_check_passes_equal_closed_cells(suite, capsys):
    assert shared_cells.main(["check", *suite]) == 0
    assert capsys.readouterr().out == ""


def test_check_fails_when_a_cell_drifts(suite, capsys):
    change("b.ipynb", shared_read=READ.replace("return path", "return limit"))
    assert shared_cells.main(["check", *suite]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("b.ipynb: shared-read: line 6 is '    return limit, limit'")
    for path in suite:  # either side may be the right one
        assert f"python tools/shared_cells.py copy {path} shared-read" in line


def test_check_fails_when_tags_drift(suite):
    notebook = shared_cells.read("b.ipynb")
    notebook.cells[1].metadata.tags = []
    shared_cells.write(notebook, "b.ipynb")
    assert "b.ipynb: shared-read: tags are []" in the_problem(suite)


def test_check_fails_when_the_order_differs(suite):
    notebook = shared_cells.read("b.ipynb")
    notebook.cells.reverse()
    shared_cells.write(notebook, "b.ipynb")
    found = shared_cells.check(suite)[0]
    assert "b.ipynb: shared-use: order differs from a.ipynb" in found[0]
    assert "takes PATTERN from outside" in found[1]  # no longer before it in every notebook


def test_check_fails_when_a_name_is_defined_twice_outside_shared_cells(suite):
    change("b.ipynb", own_b="class own_a: pass")
    assert the_problem(suite).startswith("a.ipynb: own-a, b.ipynb: own-b: each defines own_a")


def test_check_fails_when_a_shared_name_is_defined_elsewhere(suite):
    change("a.ipynb", own_a="if True:\n    def use(): pass")
    assert the_problem(suite) == "a.ipynb: own-a: defines use, as does shared-use; keep one"


def test_check_fails_when_two_shared_cells_define_one_name(suite):
    for path in suite:
        change(path, shared_use=USE.replace("use", "read"))
    assert "shared-read, shared-use: both define read" in the_problem(suite)


@pytest.mark.parametrize("source", [READ, READ.replace("limit", "most")])
def test_check_fails_when_an_id_was_lost_and_its_repair_repairs(suite, source):
    change("b.ipynb", shared_read=source)
    text = Path("b.ipynb").read_text().replace('"shared-read"', '"0a1b2c3d"')
    Path("b.ipynb").write_text(text)
    line = next(p for p in shared_cells.check(suite)[0] if "0a1b2c3d" in p)
    assert "b.ipynb: 0a1b2c3d: is like shared-read in a.ipynb" in line
    subprocess.run(re.search(r"sed .* b\.ipynb", line).group(), shell=True, check=True)
    shared_cells.copy("a.ipynb")
    assert shared_cells.check(suite) == ([], [])


@pytest.mark.parametrize(
    "use, taken",
    [
        (USE.replace("path)", "path=settings)"), "settings"),
        (USE + " + [settings]", "settings"),
        ("class Use:\n    def use(self):\n        return [settings for _ in self]", "settings"),
        ("def use(path):\n    return re.sub('', '', path)", "re"),  # imports do not carry over
        ("USE = settings", "settings"),
    ],
)
def test_check_fails_when_a_shared_cell_takes_a_global(suite, use, taken):
    for path in suite:
        change(path, shared_use=use)
    assert f"a.ipynb: shared-use: takes {taken} from outside" in the_problem(suite)


def test_a_closed_cell_may_use_builtins_its_own_names_and_earlier_shared_ones(suite):
    source = (
        "%matplotlib inline\nimport os as system\nfrom re import sub\n\n"
        "class Use(dict):\n    LIMIT = 3\n\n    def use(self, path, *rest, **more):\n"
        "        super().__init__()\n        return Use, sub, read, PATTERN, [p for p in path]\n\n"
        "for path in system.environ:\n    print(path, globals(), __name__)"
    )
    for path in suite:
        change(path, shared_use=source)
    assert shared_cells.check(suite) == ([], [])


def test_a_shared_cell_that_appears_once_is_only_a_warning(suite, capsys):
    assert shared_cells.main(["check", "a.ipynb"]) == 0
    assert "warning: a.ipynb: shared-read: appears once" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["no id", "twice", "nbformat 4.5"])
def test_check_fails_without_unique_ids_and_its_repair_gives_them(suite, fault):
    notebook = json.loads(Path("a.ipynb").read_text())
    title, *_, last = notebook["cells"]
    if fault == "twice":
        title["id"] = last["id"]
    else:
        del title["id"]
        notebook["nbformat_minor"] = 5 - (fault == "nbformat 4.5")
    Path("a.ipynb").write_text(json.dumps(notebook))
    line = next(p for p in shared_cells.check(suite)[0] if fault in p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat warns of what it mends
        exec(re.search('python -c "(.*)"', line)[1])
    repaired = [cell.id for cell in shared_cells.read("a.ipynb").cells]
    assert all(repaired) and len(set(repaired)) == len(repaired)


def test_check_fails_on_a_cell_that_is_no_python(suite):
    change("a.ipynb", own_a="def broken(:")
    assert "a.ipynb: own-a: line 1 is no Python" in the_problem(suite)


# shared cells: the copier


def test_copy_repairs_drift_and_leaves_its_source_and_all_outputs(suite):
    change("b.ipynb", shared_read=READ + "  # better", own_b="def better(): pass")
    source = Path("b.ipynb").read_bytes()
    outputs = [cell.get("outputs") for cell in shared_cells.read("a.ipynb").cells]
    assert shared_cells.copy("b.ipynb") == ["a.ipynb: shared-read"]
    assert shared_cells.check(suite) == ([], [])
    assert Path("b.ipynb").read_bytes() == source
    copied = shared_cells.read("a.ipynb")
    assert copied.cells[1].source == READ + "  # better"
    assert [cell.get("outputs") for cell in copied.cells] == outputs
    assert copied.cells[2].id == "own-a"
    nbformat.write(copied, "by_nbformat.ipynb")
    assert Path("a.ipynb").read_bytes() == Path("by_nbformat.ipynb").read_bytes()


def test_copy_takes_only_the_cells_it_is_told(suite, capsys):
    change("b.ipynb", shared_read=READ + "#", shared_use=USE + "#")
    assert shared_cells.main(["copy", "b.ipynb", "shared-use"]) == 0
    assert capsys.readouterr().out == "a.ipynb: shared-use\n"
    assert [shared_cells.read("a.ipynb").cells[n].source for n in (1, 3)] == [READ, USE + "#"]
    with pytest.raises(SystemExit, match="no shared cell own-b"):
        shared_cells.copy("b.ipynb", ["own-b"])


def test_copy_writes_nothing_when_nothing_differs(suite):
    Path("a.ipynb").write_text(json.dumps(json.loads(Path("a.ipynb").read_text())))  # one long line
    before = Path("a.ipynb").read_bytes()
    assert shared_cells.copy("b.ipynb") == []
    assert Path("a.ipynb").read_bytes() == before


# structure

PARAMETERS = 'epochs: int = 1  # times through the corpus\nname: str = "run"  # its folder'
CHECK = "def check_parameters(given, names):\n    pass"


def write_lawful(*extra):
    """A notebook that is as it should be, but for these cells after it."""
    cells = [
        new_markdown_cell("# Title", id="title"),
        code(PARAMETERS, "parameters", "parameters"),
        code("RULES = {}", "shared-rules"),
        code(CHECK, "shared-check"),
        code('check_parameters(globals(), "epochs name")', "check"),
        *extra,
    ]
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    return save(Path("lawful.ipynb"), *cells)


def test_structure_passes_a_lawful_notebook(suite, capsys):
    write_lawful(
        code("'a/tmp/b', 'http://host/tmp/x'", "x", outputs=[new_output("stream", text="12")])
    )
    assert structure.main(["lawful.ipynb"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "cell, problem",
    [
        (code("  ", "x"), "is empty"),
        (code("pass\n" * 90, "x"), "has 90 lines"),
        (code("open('/tmp/x')", "x"), "path of one machine: /tmp/x"),
        (code("", "x", outputs=[new_output("stream", text="in /root/y\n")]), "machine: /root/y"),
        (code("1 / 0", "x", outputs=[new_output("error", ename="E", evalue="")]), "an error"),
        (code("1", "x", "nbval-check-ouput"), "tags that mean nothing"),
        (code("1", "x", "nbval-check-output"), "nothing is compared"),
        (new_code_cell("1", id="x", metadata={"collapsed": True}), "has metadata ['collapsed']"),
    ],
)
def test_structure_finds_what_is_wrong_with_a_cell(suite, cell, problem):
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
def test_structure_finds_what_is_wrong_with_parameters(suite, source, problem):
    change(write_lawful(), parameters=source)
    (line,) = structure.problems("lawful.ipynb")
    assert line.startswith("lawful.ipynb: parameters: ") and problem in line


def test_structure_finds_what_is_wrong_with_a_notebook(suite):
    found = "\n".join(structure.problems("a.ipynb"))
    assert "one cell is tagged parameters" in found
    assert "not those of one run from top to bottom" in found
    notebook = shared_cells.read(write_lawful())
    notebook.metadata.papermill = {}
    shared_cells.write(notebook, "lawful.ipynb")
    change("lawful.ipynb", title="Title", check="x = 1")
    found = "\n".join(structure.problems("lawful.ipynb"))
    for problem in [
        "metadata ['papermill']",
        "begin with a title",
        "come shared-rules, shared-check",
    ]:
        assert problem in found
    notebook.metadata = {}
    shared_cells.write(notebook, "lawful.ipynb")
    found = "\n".join(structure.problems("lawful.ipynb"))
    assert "kernelspec is not python3" in found


# the repository's own notebooks


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
def test_the_notebooks_hold_together(capsys):
    assert shared_cells.main(["check"]) == 0, capsys.readouterr().out


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
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
    before = shared_cells.read(path)
    run = store(path, "-p", "epochs", "5")
    assert run.returncode == 0, run.stderr
    return path, before


def test_store_outputs_changes_outputs_and_counts_only(stored):
    path, before = stored
    after = shared_cells.read(path)
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
    notebook = shared_cells.read(stored[0])
    for cell in notebook.cells:
        if cell.id.startswith("drifted"):
            cell.outputs[0].text = cell.outputs[0].text.replace("4.61", "4.62")
    notebook.cells[0].source = "epochs: int = 5  # as in the stored run"
    shared_cells.write(notebook, tmp_path / "notebook.ipynb")
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
