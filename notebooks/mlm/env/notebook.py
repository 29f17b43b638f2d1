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


PYTHONS = (3, 10), (3, 13)  # the first and the last that the notebooks were run on


class NotebookError(ValueError):
    """An error whose one line says it all: what was found, what is allowed, what to do."""

    def _render_traceback_(self):  # IPython shows this instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def error_message(function, *arguments, **options):
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

    A torch (and torch_xla) that is here stays as it is. Raises NotebookError where it does not fit,
    this Python does not, or pip fails, whose own words are shown.
    """
    from packaging.requirements import Requirement

    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        first, last, here = ("{}.{}".format(*v) for v in (*PYTHONS, sys.version_info))
        raise NotebookError(
            f"this is Python {here}; the notebooks run on {first} to {last}: choose a kernel of these"
        )

    def is_met(text):
        need, here = Requirement(text), installed_version(Requirement(text).name)
        return here is not None and need.specifier.contains(here, prereleases=True)

    torch, here = REQUIREMENTS[0], installed_version("torch")
    if here and not is_met(torch):
        raise NotebookError(
            f"torch {here} is here and the notebooks need {torch}; a torch is never replaced unasked: run "
            f"`pip install '{torch}'` yourself, then restart the kernel"
        )
    missing = [text for text in (*REQUIREMENTS, *more) if not is_met(text)]
    pinned = ((name, installed_version(name)) for name in ("torch", "torch_xla"))
    keep = [f"{name}=={here}" for name, here in pinned if here]
    if missing:
        pip_install(*missing, *keep)
    print("Installed:", ", ".join(missing) or "nothing, all of it was here")
    silence_warnings()


def pip_install(*what):
    """Install packages for this Python; raises NotebookError where pip, which says why, fails."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if subprocess.run([*pip, *what]).returncode:
        raise NotebookError(
            f"pip could not install {', '.join(what)} for the reason above: mend that, or install them "
            "yourself, then run this again"
        )


def silence_warnings():
    """Switch off telemetry, tips and warnings that are not about the reader's own doing."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing is sent anywhere
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # all cores, no warning when forked
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # tensorboard starts a TensorFlow that is here
    warnings.filterwarnings("ignore", "IProgress not found")  # without ipywidgets a bar is text
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between Lightning and torch
    # float16's first steps are tries, which a scaler leaves out
    warnings.filterwarnings("ignore", "Detected call of `lr_sched")
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # float32 is what was asked for
    for name in ("pytorch_lightning.utilities", "lightning_fabric.utilities"):
        logging.getLogger(f"{name}.rank_zero").setLevel(logging.WARNING)
    resumed = "pytorch_lightning.trainer.connectors.checkpoint_connector"
    logging.getLogger(resumed).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # "triton not found"
    if (
        started_by_launcher()
    ):  # with it Lightning takes this for a person's notebook and refuses to join
        vars(sys).pop("ps1", None)


def started_by_launcher():
    """Whether torchrun or SLURM started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def show_source(function):
    """Show the library's code of a function or class in the notebook, with colours."""
    import inspect

    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")
