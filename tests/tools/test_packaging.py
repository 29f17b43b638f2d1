"""The project as a Python package: `pip install .` provides `import mlm`."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from helpers import ROOT


@pytest.mark.slow
def test_an_installed_library_is_imported_from_anywhere(tmp_path):
    project, site, elsewhere = (tmp_path / name for name in ("project", "site", "elsewhere"))
    elsewhere.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "notebooks" / "mlm", project / "notebooks" / "mlm", ignore=ignore)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(project)], check=True)
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import mlm.parameters.train as p; print(p.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(site / "mlm" / "parameters" / "train.py")
    source = project / "notebooks"
    copied = {path.relative_to(site) for path in (site / "mlm").rglob("*.py")}
    assert copied == {path.relative_to(source) for path in (source / "mlm").rglob("*.py")}
    (found,) = [d for d in distributions(path=[str(site)]) if d.metadata["Name"] == "bert-mlm"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {line.split(">")[0] for line in lines if line and not line.startswith("#")}
    assert {requirement.split("<")[0].split(">")[0] for requirement in found.requires} == names


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    pins = (ROOT / "tests" / "requirements-oldest.txt").read_text().splitlines()[1:]
    allowed = (ROOT / "requirements.txt").read_text()
    for name, _, version in (pin.partition("==") for pin in pins):
        lowest = re.search(rf"^{name}>=([\d.]+)", allowed, re.M)[1]
        assert f"{version}.".startswith(f"{lowest}."), name


def test_the_tpu_script_alone_installs_what_requirements_txt_says():
    """setup_tpu.sh has its own list for when it is uploaded without requirements.txt."""
    (listed,) = re.findall(
        r"cat <<'END'\n(torch>.*?)END", (ROOT / "setup_tpu.sh").read_text(), re.S
    )
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line.split("#")[0].strip() for line in lines]
    assert listed.splitlines() == [line for line in required if line]


def test_the_lock_file_meets_the_requirements():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.split("#")[0])
            assert requirement.specifier.contains(locked[requirement.name]), requirement
