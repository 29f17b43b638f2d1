"""What each notebook starts with: required packages, one-line errors, no warnings of others."""

import logging
import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

import mlm.env.notebook as notebook
from helpers import ROOT, refused
from mlm.env.notebook import NotebookError, error_message


def test_an_error_is_one_line_in_the_notebook():
    error = NotebookError("what to do")
    assert isinstance(error, ValueError)
    assert error._render_traceback_() == ["NotebookError: what to do"]


# packages


def test_the_notebooks_require_what_requirements_txt_says():
    first, *_ = (ROOT / "requirements.txt").read_text().split("\n\n")
    lines = [line.split("#")[0].strip() for line in first.splitlines()]
    assert [line for line in lines if line] == notebook.REQUIREMENTS


@pytest.fixture
def pip(monkeypatch):
    """install_missing on a machine with the packages `installed`; `calls` is how pip was run."""
    installed, calls, failures, replaced, stderr = {}, [], [], {}, []

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    def run(command, **_):
        calls.append(command)
        installed.update(replaced)
        return SimpleNamespace(returncode=len(failures), stderr="".join(stderr))

    def install(requirements):
        monkeypatch.setattr(notebook, "REQUIREMENTS", requirements)
        notebook.install_missing()

    monkeypatch.setattr(notebook, "version", version)
    monkeypatch.setattr(notebook, "subprocess", SimpleNamespace(run=run, PIPE=-1))
    monkeypatch.setattr(notebook, "silence_warnings", lambda: None)
    return SimpleNamespace(
        installed=installed,
        calls=calls,
        install=install,
        fail=lambda: failures.append(1),
        replaces=replaced.update,
        says=stderr.append,
    )


def test_nothing_is_installed_if_all_packages_are_there(pip, capsys):
    pip.installed |= {"torch": "2.9.0+cpu", "transformers": "5.15.0"}
    pip.install(["torch>=2.8,<2.14", "transformers>=5.2,<6"])
    assert pip.calls == []
    assert "nothing" in capsys.readouterr().out


def test_only_missing_packages_are_installed_and_torch_is_kept(pip, capsys):
    pip.installed |= {"torch": "2.9.0+cu128", "torch_xla": "2.9.0", "transformers": "4.57.0"}
    pip.install(["torch>=2.8,<2.14", "transformers>=5.2,<6", "pooch>=1.8"])
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    requirements = ["transformers>=5.2,<6", "pooch>=1.8", "torch==2.9.0+cu128", "torch_xla==2.9.0"]
    assert pip.calls == [command + requirements]
    assert "transformers>=5.2,<6, pooch>=1.8" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize("version", ["2.7.1", "2.14.0+cu130", "1.13"])
def test_a_torch_out_of_range_is_never_replaced(pip, version):
    """pip is not called: it cannot meet the range and keep the installed torch."""
    pip.installed |= {"torch": version, "transformers": "5.15.0"}
    with refused(f"torch {version} is installed", "torch>=2.8,<2.14", "pip install", "restart"):
        pip.install(["torch>=2.8,<2.14", "transformers>=5.2,<6"])
    assert pip.calls == []


@pytest.mark.fault
def test_a_failure_of_pip_is_one_line(pip):
    pip.installed |= {"torch": "2.9.0"}
    pip.fail()
    with refused("pip could not install pooch>=1.8, torch==2.9.0 for the reason above", "again"):
        pip.install(["torch>=2.8,<2.14", "pooch>=1.8"])


@pytest.mark.fault
@pytest.mark.parametrize("package", notebook.REPLACEABLE)
@pytest.mark.parametrize("is_imported", [True, False])
def test_a_package_that_was_imported_and_is_replaced_needs_a_restart(
    pip, package, is_imported, monkeypatch
):
    """Colab 2026.01 has transformers 4.57; mixed with modules of 5, the next import failed."""
    for module in notebook.REPLACEABLE.values():
        monkeypatch.delitem(sys.modules, module, raising=False)
    if is_imported:
        monkeypatch.setitem(sys.modules, notebook.REPLACEABLE[package], None)
    pip.installed |= {"torch": "2.9.0", "transformers": "4.57.6", package: "0.1"}
    pip.replaces({package: "5.24.0"})
    line = error_message(pip.install, ["torch>=2.8,<2.14", "transformers>=5.8,<6"])
    assert line == (
        f"{package} had been imported before and is now replaced: restart the kernel (on Colab: "
        "Runtime > Restart session) and run the notebook from the top"
        if is_imported
        else None
    )
    assert error_message(pip.install, ["torch>=2.8,<2.14"]) is None  # nothing is replaced


def test_conflicts_of_packages_that_the_notebooks_do_not_need_are_explained(pip, capsys):
    pip.says("ERROR: ... the following dependency conflicts.\ngradio 5.50.0 requires ...\n")
    pip.install(["pooch>=1.8"])
    out, err = capsys.readouterr()
    assert "gradio 5.50.0" in err and "pip succeeded" in out
    pip.installed["pooch"] = "1.8"
    pip.install(["pooch>=1.8"])
    assert "pip succeeded" not in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize(
    "version, valid",
    [
        ((3, 9, 18), False),
        ((3, 10, 0), True),
        ((3, 14, 5), True),
        ((3, 15, 0), False),
        ((4, 1, 0), False),
    ],
)
def test_a_python_that_the_notebooks_never_ran_on_is_refused(pip, version, valid, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    line = error_message(pip.install, ["torch>=2.8,<2.14"])
    message = f"Python must be 3.10 to 3.14, and this is {version[0]}.{version[1]}: choose another"
    assert line is None if valid else message in line


# warnings


def test_warnings_of_other_packages_are_silenced(monkeypatch):
    """TensorFlow, triton, compilers and Lightning warn about things that the reader cannot change."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    silenced = {
        "torch.utils.flop_counter": logging.WARNING,  # triton not found
        "lightning_fabric.utilities.rank_zero": logging.INFO,  # to use Tensor Cores you should ...
        "pytorch_lightning.utilities.rank_zero": logging.INFO,  # GPU available: False
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        notebook.silence_warnings()
        warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication", stacklevel=1)
        warnings.warn("Please use the new API settings to control TF32 behavior", stacklevel=1)
        warnings.warn("Detected call of `lr_scheduler.step()` before `optim", stacklevel=1)
        assert caught == []
        warnings.warn("about the reader's own code", stacklevel=1)
        assert len(caught) == 1
    for name, level in silenced.items():
        assert not logging.getLogger(name).isEnabledFor(level), name
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


@pytest.mark.fault
def test_windows_is_refused_before_anything_is_installed(pip, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with refused("Windows is not supported", "WSL 2"):
        pip.install(["torch>=2.8,<2.14"])
    assert pip.calls == []
