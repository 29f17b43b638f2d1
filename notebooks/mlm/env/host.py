"""Which host this is, which packages it has, and how a TPU host is prepared. Taught in 01.

Nothing here imports torch: a TPU host may have to replace it first.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mlm.env.notebook import (
    PYTHON_VERSIONS,
    REQUIREMENTS,
    NotebookError,
    installed_version,
    pip_install,
)

PURPOSES = {  # package: what the notebooks use it for
    "python": "the language",
    "torch": "tensors, gradients, the optimizer",
    "transformers": "BERT and its tokenizer",
    "pytorch-lightning": "one training loop for all devices",
    "numpy": "token ids and masks",
    "pandas": "tables",
    "matplotlib": "plots",
    "pooch": "verified downloads",
    "charset-normalizer": "likely encodings of a text",
    "tensorboard": "viewing training logs",
    "scikit-learn": "linear classifiers and TF-IDF",
    "papermill": "running notebooks as jobs",
    "torch_xla": "torch on TPUs",
    "libtpu": "the driver of the TPU chips",
}


def find_host(environ: Mapping[str, str], root: str | Path = "/") -> tuple[str, bool]:
    """(host, has a TPU?) from environment variables and the device files below `root`."""
    device_files = [*Path(root).glob("dev/accel[0-9]*"), *Path(root).glob("dev/vfio/[0-9]*")]
    variables = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")
    has_tpu = bool(device_files) or any(environ.get(name) for name in variables)
    if "KAGGLE_KERNEL_RUN_TYPE" in environ or Path(root, "kaggle").is_dir():
        return "Kaggle", has_tpu
    if "COLAB_RELEASE_TAG" in environ:
        return "Colab", has_tpu
    return ("a TPU VM" if has_tpu else "neither Colab nor Kaggle"), has_tpu


def list_packages() -> list[tuple[str, str, str, str]]:
    """A row for each package: (name, installed version or "", required version or "", purpose)."""
    required = {re.split(r"[^\w-]", line)[0]: line for line in REQUIREMENTS}
    required = {name: line.removeprefix(name) for name, line in required.items()}
    required["python"] = "{}.{} to {}.{}".format(*PYTHON_VERSIONS[0], *PYTHON_VERSIONS[1])
    required["torch_xla"] = "same as torch"
    installed = {name: installed_version(name) or "" for name in PURPOSES}
    installed["python"] = platform.python_version()
    return [
        (name, installed[name], required.get(name, ""), purpose)
        for name, purpose in PURPOSES.items()
    ]


# TPU hosts


def prepare_tpu(folder: str | Path = ".") -> None:
    """On a TPU host, keep or install matching versions of torch and torch_xla. Elsewhere do nothing.

    Runs setup_tpu.sh if it is in `folder` or its parent, otherwise `install_torch_xla`. Raises
    NotebookError if that fails or if the kernel must be restarted.
    """
    scripts = Path(folder, "setup_tpu.sh"), Path(folder, "..", "setup_tpu.sh")
    script = next((path for path in scripts if path.is_file()), None)
    if not find_host(os.environ)[1]:
        print("There is no TPU here, so there is nothing to prepare.")
    elif script:
        run_script(script)
    else:
        install_torch_xla()


def run_script(script: Path) -> None:
    """Run setup_tpu.sh for this Python; raises NotebookError with its last line if it fails."""
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(script)], env=environ, text=True, capture_output=True)
    print(done.stdout)
    if done.returncode:
        raise NotebookError((done.stderr.strip().splitlines() or ["setup_tpu.sh failed"])[-1])


def minor_version(name: str) -> tuple[int, ...]:
    """(major, minor) of an installed package; (0, 0) if it is missing."""
    return tuple(int(number) for number in re.findall(r"\d+", installed_version(name) or "0.0")[:2])


def install_torch_xla() -> None:
    """Install torch and torch_xla of the same minor version, unless a pair of 2.8 or later is here.

    Raises NotebookError if torch_xla is not built for this Python, or if the kernel must be restarted.
    """
    if minor_version("torch") == minor_version("torch_xla") >= (2, 8):
        print("torch and torch_xla have matching versions: kept")
        return
    if sys.version_info >= (3, 14):
        raise NotebookError(
            "torch_xla, which computes on this TPU, needs Python 3.10 to 3.13, and this is "
            "{}.{}: choose another kernel".format(*sys.version_info)
        )
    requirements = ["torch==2.9.*", "torch_xla[tpu]==2.9.0"]
    if sys.version_info >= (3, 13):  # [tpu] requires libtpu 0.0.21, which has no build for 3.13
        requirements = ["torch==2.9.*", "torch_xla==2.9.0"]
        if not installed_version("libtpu") and not os.environ.get("TPU_LIBRARY_PATH"):
            requirements.append("libtpu==0.0.21.1")
    pip_install(*requirements)
    if "torch" in sys.modules:
        raise NotebookError(
            "torch was replaced: restart the kernel and run the notebook from the top"
        )
