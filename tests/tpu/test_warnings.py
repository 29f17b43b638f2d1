"""With Colab's package versions (requirements.txt in this folder) the notebooks print no warnings."""

import json
import re
from pathlib import Path

from processes import ROOT
from xla_runs import papermill

BAR = re.compile(r"\s*([\w.-]+:? +)?\d+%\|.*")  # the progress bar of a download


def stderr_lines(notebook: Path) -> list[tuple[str, str]]:
    """[(cell, line)] of everything that was written to stderr, except progress bars."""
    return [
        (cell["id"], line)
        for cell in json.loads(notebook.read_text())["cells"]
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
        for line in re.split(r"[\r\n]+", "".join(output["text"]))
        if line.strip() and not BAR.fullmatch(line)
    ]


def test_no_warning_in_any_output(tmp_path, text_file, monkeypatch):
    """Also none from the library itself: deprecations are shown for its modules as for the cells."""
    library = ROOT / "notebooks"
    paths = [path.relative_to(library) for path in (library / "mlm").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    filters = [f"default::DeprecationWarning:{module}" for module in modules]
    monkeypatch.setenv("PYTHONWARNINGS", ",".join(filters))
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    text, model = dict(corpus=text_file), dict(model="scratch:tiny")
    runs = {
        "02_corpus": text,
        "03_dataset": text | model,
        "03b_packing": text | model,
        "04_train": text | model | dict(max_steps=4, batch_size=8),
        "05_predict": dict(run_name="run"),
    }
    for notebook, parameters in runs.items():
        done, out = papermill(notebook, tmp_path, **parameters)
        assert done.returncode == 0, done.stderr[-3000:]
        assert stderr_lines(out) == [], notebook
