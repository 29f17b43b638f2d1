"""What each notebook begins with: one-line errors, packages that are missing, less noise."""

import logging
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

REQUIREMENTS = [  # those of requirements.txt that the notebooks import
    "torch>=2.8,<2.14",
    "transformers>=5.0,<6",
    "pytorch-lightning>=2.6,<2.7",
    "numpy>=1.26",
    "pandas>=2.0",
    "matplotlib>=3.8",
    "pooch>=1.8",
    "tensorboard>=2.15",
]


class NotebookError(ValueError):
    """An error whose one line says it all: what was found, what is allowed, what to do."""

    def _render_traceback_(self):  # IPython shows this instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def refusal(function, *arguments, **options):
    """The line with which a call is refused; None where it is not."""
    try:
        function(*arguments, **options)
    except NotebookError as error:
        return str(error)


def installed_version(name):
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def install_missing(*more):
    """Install what of REQUIREMENTS (and `more`) is not here yet, then quiet what only adds noise.

    A torch (and torch_xla) that is here stays as it is. pip's own error is shown where it fails.
    """
    from packaging.requirements import Requirement

    def is_met(text):
        need, here = Requirement(text), installed_version(Requirement(text).name)
        return here is not None and need.specifier.contains(here, prereleases=True)

    missing = [text for text in (*REQUIREMENTS, *more) if not is_met(text)]
    pinned = ((name, installed_version(name)) for name in ("torch", "torch_xla"))
    keep = [f"{name}=={here}" for name, here in pinned if here]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing, *keep], check=True)
    print("Installed:", ", ".join(missing) or "nothing, all of it was here")
    quiet()


def quiet():
    """Switch off telemetry, tips and warnings that are not about the reader's own doing."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing is sent anywhere
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # all cores, no warning when forked
    warnings.filterwarnings("ignore", "IProgress not found")  # without ipywidgets a bar is text
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between Lightning and torch
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.WARNING)
    if launched():  # with it Lightning takes this for a person's notebook and refuses to join
        vars(sys).pop("ps1", None)


def launched():
    """Whether torchrun or SLURM started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def show_source(function):
    """Show the library's code of a function or class in the notebook, with colours."""
    import inspect

    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")
