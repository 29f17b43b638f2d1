"""In Colab's package set (requirements.txt beside this) the notebooks print nothing but what they say."""

import json
import re

from conftest import ROOT, papermill

BAR = re.compile(r"\s*([\w.-]+:? +)?\d+%\|.*")  # a download's progress bar


def noise(notebook):
    """[(cell, line)] of all that went to stderr, but for progress bars."""
    return [
        (cell["id"], line)
        for cell in json.loads(notebook.read_text())["cells"]
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
        for line in re.split(r"[\r\n]+", "".join(output["text"]))
        if line.strip() and not BAR.fullmatch(line)
    ]


def test_no_warning_in_any_output(tmp_path, text_file, monkeypatch):
    """Deprecations are shown for the library's own modules as they are for cells, and torch_xla is at ease."""
    modules = [f"mlm.{path.stem}" for path in (ROOT / "notebooks/mlm").glob("*.py")]
    shown = [f"default::DeprecationWarning:{module}" for module in modules]
    monkeypatch.setenv("PYTHONWARNINGS", ",".join(shown))
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    text, model = dict(corpus=text_file), dict(model="scratch:tiny")
    steps = {
        "02_corpus": text,
        "03_dataset": text | model,
        "04_train": text | model | dict(max_steps=4, batch_size=8),
        "05_predict": dict(run_name="run"),
    }
    for notebook, parameters in steps.items():
        done, out = papermill(notebook, tmp_path, **parameters)
        assert done.returncode == 0, done.stderr[-3000:]
        assert noise(out) == [], notebook
