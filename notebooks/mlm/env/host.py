"""Which host this is, what is installed on it, and what a TPU host needs. Nothing here imports torch.

Taught in 01.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from mlm.env.notebook import PYTHONS, REQUIREMENTS, NotebookError, installed_version, pip_install

PURPOSE = {
    "python": "the language",
    "torch": "tensors, gradients, the optimizer",
    "transformers": "BERT and its tokenizer",
    "pytorch-lightning": "one training loop for all devices",
    "numpy": "token ids and masks",
    "pandas": "tables",
    "matplotlib": "pictures",
    "pooch": "downloads that are checked",
    "tensorboard": "training logs",
    "papermill": "notebooks as jobs",
    "torch_xla": "torch on TPUs",
    "libtpu": "drives the TPU chips",
}


def find_host(environ, root="/"):
    """(host, has a TPU?) from the environment's variables and the device files below `root`."""
    device_files = [*Path(root).glob("dev/accel[0-9]*"), *Path(root).glob("dev/vfio/[0-9]*")]
    marks = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")
    tpu = bool(device_files) or any(environ.get(name) for name in marks)
    if "KAGGLE_KERNEL_RUN_TYPE" in environ or Path(root, "kaggle").is_dir():
        return "Kaggle", tpu
    if "COLAB_RELEASE_TAG" in environ:
        return "Colab", tpu
    return ("a TPU VM" if tpu else "neither Colab nor Kaggle nor a TPU VM"), tpu


def packages_here():
    """A row for each package: (name, version here or "", range that is wanted, what it is for)."""
    names = [re.match(r"[\w-]+", line).group() for line in REQUIREMENTS]
    wanted = {name: line[len(name) :] for name, line in zip(names, REQUIREMENTS)}
    wanted |= {"python": "{}.{} to {}.{}".format(*PYTHONS[0], *PYTHONS[1]), "torch_xla": "as torch"}
    here = {name: installed_version(name) or "" for name in PURPOSE}
    here["python"] = platform.python_version()
    return [(name, here[name], wanted.get(name, ""), use) for name, use in PURPOSE.items()]


def prepare_tpu(folder="."):
    """On a TPU host: see to a torch and a torch_xla that belong together. Elsewhere: nothing.

    By setup_tpu.sh where it lies in `folder` or the one above, else in short form.
    Raises NotebookError where that fails, or where the kernel has to be restarted.
    """
    scripts = Path(folder, "setup_tpu.sh"), Path(folder, "..", "setup_tpu.sh")
    script = next((path for path in scripts if path.is_file()), None)
    if not find_host(os.environ)[1]:
        print("No TPU here, nothing to prepare.")
    elif script:
        run_script(script)
    else:
        install_pair()


def run_script(script):
    """Run setup_tpu.sh for this Python; raises NotebookError with its last line where it fails."""
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(script)], env=environ, text=True, capture_output=True)
    print(done.stdout)
    if done.returncode:
        raise NotebookError((done.stderr.strip().splitlines() or ["setup_tpu.sh failed"])[-1])


def install_pair():
    """The same in short form: a torch and a torch_xla of one minor version, 2.8 or later."""
    texts = [installed_version(name) or "0.0" for name in ("torch", "torch_xla")]
    found = [tuple(int(number) for number in re.findall(r"\d+", text)[:2]) for text in texts]
    if found[0] == found[1] >= (2, 8):
        print("torch and torch_xla belong together: kept")
        return
    pair = ["torch==2.9.*", "torch_xla[tpu]==2.9.0"]
    if sys.version_info >= (3, 13):  # [tpu] asks for libtpu 0.0.21, which is not built for it
        pair = ["torch==2.9.*", "torch_xla==2.9.0"]
        there = installed_version("libtpu") or os.environ.get("TPU_LIBRARY_PATH")
        pair += [] if there else ["libtpu==0.0.21.1"]
    pip_install(*pair)
    if "torch" in sys.modules:
        raise NotebookError(
            "torch was replaced: restart the kernel and run the notebook from the top"
        )
