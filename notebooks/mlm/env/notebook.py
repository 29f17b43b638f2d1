"""What each notebook starts with: one-line errors, missing packages, fewer warnings."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

REQUIREMENTS = [  # the lines of requirements.txt for packages that the notebooks import
    "torch>=2.8,<2.16",
    "transformers>=5.8,<6",
    "pytorch-lightning>=2.6.6,<2.7",
    "numpy>=1.26",
    "pandas>=2.1",
    "matplotlib>=3.8",
    "pooch>=1.8",
    "charset-normalizer>=3.4.2",
    "tensorboard>=2.18",
    "scikit-learn>=1.3",
]
REPLACEABLE = {  # packages that the lines above may replace, and the modules that import them
    "transformers": "transformers",
    "huggingface-hub": "huggingface_hub",  # required by transformers
    "pytorch-lightning": "pytorch_lightning",
    "numpy": "numpy",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
    "scikit-learn": "sklearn",
}
PYTHON_VERSIONS = (3, 10), (3, 14)  # the oldest and the newest that the notebooks were run on


class NotebookError(ValueError):
    """An error whose single line is complete: what is wrong, what is valid, what to do next."""

    def _render_traceback_(self) -> list[str]:  # IPython shows this instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def error_message(function: Callable, *arguments: Any, **options: Any) -> str | None:
    """The message of the NotebookError that this call raises; None if it raises none."""
    try:
        function(*arguments, **options)
    except NotebookError as error:
        return str(error)
    return None


def installed_version(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# packages


def check_python() -> None:
    """Raise NotebookError if the notebooks were never run on this version of Python."""
    if not PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]:
        first, last, here = ("{}.{}".format(*v) for v in (*PYTHON_VERSIONS, sys.version_info))
        raise NotebookError(
            f"Python must be {first} to {last}, and this is {here}: choose another kernel"
        )


def check_system() -> None:
    """Raise NotebookError on Windows: files that are open there cannot be replaced, as checkpoints are."""
    if sys.platform == "win32":
        raise NotebookError(
            "Windows is not supported (open files cannot be replaced there, and run folders not locked): "
            "run the notebooks in WSL 2 (`wsl --install`), or on Colab"
        )


def is_met(requirement: str) -> bool:
    """Whether an installed package meets a requirement such as "numpy>=1.26"."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    installed = installed_version(parsed.name)
    return installed is not None and parsed.specifier.contains(installed, prereleases=True)


def install_missing(*more: str) -> None:
    """Install the packages of REQUIREMENTS (and `more`) that are missing, then silence warnings.

    An installed torch or torch_xla is never replaced. Raises NotebookError on Windows, if torch or
    Python is out of range, if pip fails, or if it replaces what this kernel has already imported.
    """
    check_system()
    check_python()
    torch = installed_version("torch")
    if torch and not is_met(REQUIREMENTS[0]):
        raise NotebookError(
            f"torch {torch} is installed, but the notebooks need {REQUIREMENTS[0]} and never replace a "
            f"torch: run `pip install '{REQUIREMENTS[0]}'` yourself, then restart the kernel"
        )
    missing = [requirement for requirement in (*REQUIREMENTS, *more) if not is_met(requirement)]
    versions = {name: installed_version(name) for name in ("torch", "torch_xla")}
    pins = [f"{name}=={installed}" for name, installed in versions.items() if installed]
    imported = {name: installed_version(name) for name in REPLACEABLE if is_imported(name)}
    if missing:
        pip_install(*missing, *pins)
    print("Installed:", ", ".join(missing) or "nothing, all packages were there")
    replaced = [name for name in imported if installed_version(name) != imported[name]]
    if replaced:
        raise NotebookError(
            f"{', '.join(replaced)} had been imported before and is now replaced: restart the kernel "
            "(on Colab: Runtime > Restart session) and run the notebook from the top"
        )
    silence_warnings()
    tell_lightning_who_starts_processes()


def is_imported(name: str) -> bool:
    """Whether this kernel has imported a package of REPLACEABLE; then it keeps that version."""
    return REPLACEABLE[name] in sys.modules


def pip_install(*requirements: str) -> None:
    """Install packages for this Python; pip prints its own errors. Raises NotebookError if it fails.

    pip calls it an ERROR, and succeeds, if other packages of a machine, as Colab's gradio, need older
    versions of what it installs.
    """
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, *requirements], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    print(done.stderr, end="", file=sys.stderr, flush=True)  # before what is said about it
    if done.returncode:
        raise NotebookError(
            f"pip could not install {', '.join(requirements)} for the reason above: fix that or install "
            "them yourself, then run this cell again"
        )
    if "dependency conflicts" in done.stderr:
        print(
            "pip succeeded. Its conflicts concern other packages, which the notebooks do not need."
        )


# warnings


def silence_warnings() -> None:
    """Switch off telemetry, tips and warnings that are not about the reader's own code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing is sent anywhere
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # all cores, no warning when forked
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorboard may import TensorFlow
    warnings.filterwarnings("ignore", "IProgress not found")  # without ipywidgets a bar is text
    warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a script that the font lacks
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between Lightning and torch
    # The gradient scaler of float16 skips its first steps: they overflow by design.
    warnings.filterwarnings("ignore", "Detected call of `lr_sched")
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # float32 was chosen on purpose
    warnings.filterwarnings("ignore", "Please use the new API settings")  # for TF32; torch 2.9 only
    for name in ("pytorch_lightning.utilities", "lightning_fabric.utilities"):
        logging.getLogger(f"{name}.rank_zero").setLevel(logging.WARNING)
    resumed = "pytorch_lightning.trainer.connectors.checkpoint_connector"
    logging.getLogger(resumed).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # "triton not found"


# processes


def tell_lightning_who_starts_processes() -> None:
    """Let Lightning join the processes that a launcher started, and only then."""
    if started_by_launcher():
        # With sys.ps1, Lightning takes this for an interactive session and refuses to join.
        vars(sys).pop("ps1", None)
    elif "SLURM_NTASKS" in os.environ:
        # A job of one task. Unless it is called interactive, Lightning does not start processes in it.
        os.environ["SLURM_JOB_NAME"] = "interactive"


def started_by_launcher() -> bool:
    """Whether torchrun or SLURM started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def show_source(definition: Callable) -> Any:
    """Show the library's code of a function or class in a notebook, with syntax highlighting."""
    import inspect

    from IPython.display import Code

    return Code(inspect.getsource(definition), language="python")
