"""What may be asked for, what is refused and with which words; what is needed; where it runs."""

import functools
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from papermill import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

import mlm.env.devices as devices
import mlm.env.hardware as hardware
import mlm.env.notebook as notebook_module
from helpers import NOTEBOOKS, ROOT, refused
from mlm.env.notebook import NotebookError, error_message
from mlm.parameters import TABLE, assigned_names, check_parameters, parameters_cell, parameters_of

NAMES = [path.stem for path in NOTEBOOKS]

# parameter: (values that are possible, values that are not, values of another type)
VALUES = {
    "corpus": (
        ["nietzsche", "pydoc", "a.txt", "https://host/a.txt", ["a.txt", "texts/*.txt"]],
        ["", "  ", [], ["a.txt", ""], [7]],
        [7, None],
    ),
    "column": (["text", "my column"], ["", " "], [7, None]),
    "valid_corpus": ([None, "held.txt"], ["", " "], [7, ["a.txt"]]),
    "model": (
        ["bert-base-uncased", "./folder", "scratch:tiny", "scratch:base"],
        ["", "scratch:", "scratch:huge", "scratch: tiny"],
        [None, 7],
    ),
    "max_len": ([8, 128, 512], [7, 513, 0, -1], ["many", 128.0, None, True]),
    "examples": (["line", "block", "stream"], ["lines", "", "Line"], [1, None]),
    "batch_size": ([1, 32, 65536], [0, -1, 65537], ["", 32.5, None]),
    "accumulate": ([1, 4], [0, -1, 65537], [None, 1.5]),
    "epochs": ([1, 100], [0, -1, 10**6], [1.5, None, "1.5"]),
    "max_steps": ([-1, 1, 10**6], [0, -2], [None, 1.0]),
    "lr": ([None, 1e-5, 1, 1.0], [0.0, -1e-5, 1.1, float("nan"), float("inf")], ["fast"]),
    "recipe": (["fast", "tutorial"], ["slow", ""], [None]),
    "optimizer": ([None, "adamw", "muon"], ["sgd", ""], [7]),
    "schedule": ([None, "trapezoid", "linear", "constant"], ["cosine", ""], [7]),
    "mlm_probability_end": ([0.1, 0.99], [0, 1.0, -0.1, float("nan")], [None, "none"]),
    "add_words": ([0, 500], [-1, 20001], [None, "many"]),
    "masking": (["token", "word"], ["words", ""], [None, 1]),
    "replace": (
        ["80/10/10", "100/0/0", "0/0/100"],
        ["80/10", "80/10/20", "80/20/-10", "80/10/10/0", "0.8/0.1/0.1", ""],
        [None, 80],
    ),
    "clip": ([0, 0.5, 10], [-0.1, float("inf"), float("nan")], [None, "none"]),
    "weight_decay": ([0, 0.0, 0.5], [-0.1, 1.0, float("nan")], [None, "none"]),
    "dropout": ([None, 0, 0.0, 0.9], [1.0, -0.1, float("nan")], ["a tenth"]),
    "mlm_probability": ([0.15, 0.999], [0, 0.0, 1, 1.0, -0.1, float("nan")], [None, "15%"]),
    "gpus": ([None, 0, 1, 8, -1], [-2], ["all", 1.0, [0], True]),
    "tpu_cores": (
        [None, 0, 1, 3, 8, -1, "8", "-1", "[0]", [0], [7], "[ 7 ]"],
        [-2, "all", "", [0, 1], [], [-1], "[0", ["a"], [None]],
        [1.0, True, (1,)],
    ),
    "cpu_processes": ([1, 2], [0, -1], [None, "two"]),
    "num_nodes": ([1, 4], [0], [None]),
    "strategy": (["auto", "ddp", "fsdp"], ["ddp_spawn", ""], [None]),
    "precision": (["auto", "32", "bf16", "16", 32, 16], ["64", 64, "", "bf16-mixed"], [None, 32.0]),
    "compile": (["auto", True, False], ["yes", ""], [None, 1]),
    "checkpoint_steps": ([1, 500], [0, -1], [None, 0.5]),
    "checkpoint_minutes": ([0.1, 10, 10.0], [0, -1.0, float("nan")], [None, "ten"]),
    "keep": (["last", "best"], ["first", ""], [None, True]),
    "evaluations": ([1, 4, 100000], [0, -1, 100001], [None, 2.5]),
    "patience": ([0, 1, 100], [-1], [None, 0.5, "none"]),
    "seed": ([0, 2**32 - 1], [-1, 2**32], [None, 0.5, "zero"]),
    "workdir": (["bert-mlm", "/tmp/x", "~/x"], ["", " "], [None]),
    "run_name": (
        ["run", "run-2", "Läufe_3.b"],
        ["", "a/b", "../run", ".hidden", "a b", "corpus", "run\n"],
        [7],
    ),
    "resume": (["auto", "never"], ["always", ""], [None, True]),
    "sentence": (["What is [MASK]?"], ["", "no mask"], [None]),
    "onnx": ([True, False], [], [None, 1, "yes"]),
    "upload": ([None, "you/name"], ["name", "a/b/c", ""], [7]),
    "top_k": ([1, 8], [0, 101], [None, "eight"]),
    "race_epochs": ([1, 1000], [0, 1001], [None, 1.5]),
    "repeats": ([1, 3], [0, 101], [None, 1.5]),
    "steps": ([2, 30], [1, 0, 10**6], [None]),
}


@functools.cache
def as_papermill_has_it(notebook):
    return load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb"))


def kinds_of(notebook):
    """{name: its type as papermill shows it}."""
    known = inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    return {name: entry["inferred_type_name"] for name, entry in known.items()}


def check(notebook, values=None, edit=lambda source: source, before=(), after=()):
    """Run a notebook to its check cell as a kernel does, papermill having put in these values.

    `before` and `after` are cells that somebody ran by hand before the first and after the last of
    them.
    """
    now = parameterize_notebook(as_papermill_has_it(notebook), values or {})
    namespace = {"In": [""]}

    def run(source):
        namespace["In"].append(source)
        exec(source, namespace)

    for source in before:
        run(source)
    for cell in now.cells:
        if set(cell.metadata.get("tags", [])) & {"parameters", "injected-parameters"}:
            run(edit(cell.source) if "parameters" in cell.metadata.tags else cell.source)
    for source in after:
        run(source)
    namespace["In"] += ["bring_library(CARRIED)"]  # the library cell is no cell of parameters
    (cell,) = [cell for cell in now.cells if cell.get("id") == "check"]
    run(cell.source)
    assert all(namespace[name] == value for name, value in namespace["parameters"].items())
    return namespace["parameters"]


# the parameters of every notebook


@pytest.mark.parametrize("notebook", NAMES)
def test_defaults_are_possible(notebook, capsys):
    found = check(notebook)
    assert list(found) != []
    assert found.keys() == kinds_of(notebook).keys()  # each of them is checked
    assert "all parameters are at their defaults" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", NAMES)
def test_papermill_documents_every_parameter(notebook):
    known = inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert known.keys() == parameters_of(notebook).keys()
    for name, entry in known.items():
        assert entry["inferred_type_name"] not in ("", "None"), name
        assert len(entry["help"]) > 5, name


def test_every_parameter_is_tried_below():
    assert VALUES.keys() == {parameter.name for parameter in TABLE}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.fault
def test_each_rule(name, capsys):
    """Possible values pass; impossible ones and other types are refused, saying what is allowed.

    A number may be written as text, where no text is meant.
    """
    using = [notebook for notebook in NAMES if name in parameters_of(notebook)]
    assert using
    for notebook in using:
        parameter = parameters_of(notebook)[name]
        possible, impossible, wrong = VALUES[name]
        if (notebook, name) == ("06_speed", "precision"):  # it measures no float16
            possible = [value for value in possible if str(value) != "16"]
        for value in possible:
            assert check(notebook, {name: value})[name] == value
        for value in impossible:
            with refused(f"{name}={value!r}", "is impossible: allowed is", parameter.allowed):
                check(notebook, {name: value})
        for value in [] if "str" in parameter.kinds else possible:
            if value is not None:
                found = check(notebook, {name: str(value)})[name]
                assert found == value and type(found).__name__ in parameter.kinds
        for value in [] if "str" in parameter.kinds else impossible:
            with refused(f"{name}=", "is impossible: allowed is", parameter.allowed):
                check(notebook, {name: str(value)})
        for value in wrong:
            if value is None and "NoneType" in parameter.kinds:
                continue
            if isinstance(value, tuple):  # papermill itself has no tuples
                continue
            with refused(f"{name}={value!r}: expected", f"not {type(value).__name__}"):
                check(notebook, {name: value})


@pytest.mark.parametrize("notebook", NAMES)
@pytest.mark.fault
def test_a_parameter_that_was_deleted(notebook):
    for name in parameters_of(notebook):

        def without(source, name=name):
            return re.sub(rf"^{name}: .*\n?", "", source, flags=re.M)

        with refused(f"parameter {name!r} is missing", "first code cell"):
            check(notebook, edit=without)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("batchsize", "batch_size"),
        ("Epochs", "epochs"),
        ("maxlen", "max_len"),
        ("tpu_core", "tpu_cores"),
        ("learning_rate", "lr"),
        ("bs", "batch_size"),
        ("gpu", "gpus"),
        ("mlm_prob", "mlm_probability"),
        ("random_seed", "seed"),
        ("run", "run_name"),
    ],
)
@pytest.mark.fault
def test_an_unknown_name_gets_the_nearest_suggested(given, meant):
    with refused(f"unknown parameter {given!r}", "did you mean '") as caught:
        check("04_train", {given: 3, "epochs": 2})
    assert given in ("learning_rate", "bs", "run") or f"did you mean {meant!r}" in caught()


@pytest.mark.fault
def test_an_unknown_name_in_the_first_cell():
    """Also where papermill puts a cell of its own after it."""
    for values in ({}, {"epochs": 2}):
        with refused("unknown parameter 'batchsize'", "did you mean 'batch_size'?"):
            check("04_train", values, edit=lambda source: source + "\nbatchsize = 4")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"gpus": 1, "tpu_cores": 1}, "gpus and tpu_cores contradict"),
        ({"gpus": -1, "tpu_cores": [0]}, "gpus and tpu_cores contradict"),
        ({"gpus": 2, "cpu_processes": 2}, "gpus and cpu_processes contradict"),
        ({"tpu_cores": "8", "cpu_processes": 2}, "tpu_cores and cpu_processes contradict"),
        ({"gpus": 1, "tpu_cores": 8, "cpu_processes": 2}, "gpus and tpu_cores and cpu_processes"),
    ],
)
@pytest.mark.parametrize("notebook", ["01_setup", "04_train"])
@pytest.mark.fault
def test_contradictions(notebook, values, words):
    with refused(words, "set only one"):
        check(notebook, values)


@pytest.mark.parametrize(
    "values",
    [
        {"gpus": 0, "tpu_cores": 0},
        {"gpus": 0, "tpu_cores": 8},
        {"gpus": 2, "tpu_cores": 0},
        {"gpus": 0, "tpu_cores": "0", "cpu_processes": 2},
    ],
)
def test_no_contradictions(values):
    assert check("04_train", values).items() >= values.items()


def test_what_was_set_is_listed(capsys):
    check("04_train", {"epochs": 3, "lr": 1e-4, "corpus": "nietzsche"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "Set for this run: epochs = 3 (default 1); lr = 0.0001 (default None)"


def test_a_value_may_be_an_expression(capsys):
    """Whoever edits the first cell by hand may write more than a literal."""
    found = check("04_train", edit=lambda s: s.replace("epochs: int = 1", "epochs: int = 2 * 5"))
    assert found["epochs"] == 10


def test_a_cell_that_was_mended_and_run_again_counts():
    """In a kernel, the first cell was run with a misspelt name, mended and run again."""
    cell = parameters_cell("04_train")
    check("04_train", before=[cell + "\nbatchsize = 4", cell])


def test_true_defaults_are_known_after_an_edit(capsys):
    """In Jupyter the edited cell is all that there is."""
    check("04_train", edit=lambda s: s.replace("epochs: int = 1 ", "epochs: int = 3 "))
    assert capsys.readouterr().out == "Set for this run: epochs = 3 (default 1)\n"


def test_a_parameter_needs_no_annotation():
    edits = {"epochs: int = 1 ": "epochs = 3 ", "lr: Optional[float] = None": "lr = 1e-4"}

    def edit(source):
        for old, new in edits.items():
            source = source.replace(old, new)
        return source

    assert check("04_train", edit=edit).items() >= {"epochs": 3, "lr": 1e-4}.items()


@pytest.mark.fault
def test_a_name_that_was_changed_in_a_warm_kernel():
    """The old name is still there, from the run before: it must not count."""
    cell = parameters_cell("04_train")
    with refused("unknown parameter 'epoch'", "did you mean 'epochs'?"):
        check("04_train", before=[cell], edit=lambda s: s.replace("epochs: int", "epoch: int"))


@pytest.mark.fault
def test_a_misspelt_name_is_not_forgotten():
    """Whatever else was run after the parameters cell, or stands in it."""

    def misspelt(source):
        return source.replace("epochs: int", "epoch: int")

    cell = parameters_cell("04_train")
    for more in ('run_name = "another"', "x = 5\nepochs = 2", "print(seed)"):
        with refused("unknown parameter 'epoch'", "did you mean 'epochs'?"):
            check("04_train", before=[cell], edit=misspelt, after=[more])
    for edit in (lambda s: misspelt(s) + "\nprint(epoch)", lambda s: s + "\nepochz, y = 1, 2"):
        with refused("unknown parameter 'epoch"):
            check("04_train", before=[cell], edit=edit)


def test_what_else_is_run_in_a_kernel_is_nobodys_business():
    found = check("04_train", before=["x = 5"], after=["x = 6", "import os\ny = x", "print(x)"])
    assert "x" not in found
    assert check("04_train", after=['run_name = "another"'])["run_name"] == "another"
    assert check("04_train", after=["x = 5\nepochs = 2"])["epochs"] == 2


def test_a_runner_that_keeps_no_history():
    """nbval leaves In empty: the values are checked all the same."""
    namespace = {"In": [""]}
    exec(parameters_cell("02_corpus"), namespace)
    assert check_parameters(namespace, "02_corpus") == {
        "corpus": "nietzsche",
        "column": "text",
        "workdir": "bert-mlm",
    }


@pytest.mark.parametrize(
    "name, text, number",
    [("lr", "1e-4", 1e-4), ("epochs", "3", 3), ("mlm_probability", "0.4", 0.4), ("lr", "1", 1.0)],
)
def test_a_number_that_was_written_as_text(name, text, number):
    """YAML reads 1e-4 as text, and papermill's -r hands all on as text."""
    found = check("04_train", {name: text})[name]
    assert found == number and not isinstance(found, str)


@pytest.mark.parametrize("name, value", [("run_name", 2024), ("workdir", 7), ("corpus", 1984)])
@pytest.mark.fault
def test_a_text_that_papermill_took_for_a_number(name, value):
    with refused(f"{name}={value}: expected ", "str, not int", f"pass -r {name} {value}"):
        check("04_train", {name: value})


def test_an_error_is_one_line_in_the_notebook():
    error = NotebookError("what to do")
    assert isinstance(error, ValueError)
    assert error._render_traceback_() == ["NotebookError: what to do"]


# what is needed


def test_requirements_are_those_of_requirements_txt():
    first, *_ = (ROOT / "requirements.txt").read_text().split("\n\n")
    lines = [line.split("#")[0].strip() for line in first.splitlines()]
    assert [line for line in lines if line] == notebook_module.REQUIREMENTS


@pytest.fixture
def pip(monkeypatch):
    """install_missing on a machine with these packages; `pip.asked` is what pip was run with."""
    have, asked, status = {}, [], []

    def version(name):
        if name not in have:
            raise PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(notebook_module, "version", version)

    def run(command):
        asked.append(command)
        return SimpleNamespace(returncode=len(status))

    monkeypatch.setattr(notebook_module, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(notebook_module, "silence_warnings", lambda: None)

    def install(requirements):
        monkeypatch.setattr(notebook_module, "REQUIREMENTS", requirements)
        notebook_module.install_missing()

    return SimpleNamespace(have=have, asked=asked, install=install, fails=lambda: status.append(1))


def test_nothing_is_installed_where_all_is_there(pip, capsys):
    pip.have |= {"torch": "2.9.0+cpu", "transformers": "5.15.0"}
    pip.install(["torch>=2.8,<2.14", "transformers>=5.0,<6"])
    assert pip.asked == []
    assert "nothing" in capsys.readouterr().out


def test_only_what_is_missing_is_installed_and_torch_stays(pip, capsys):
    pip.have |= {"torch": "2.9.0+cu128", "torch_xla": "2.9.0", "transformers": "4.57.0"}
    pip.install(["torch>=2.8,<2.14", "transformers>=5.0,<6", "pooch>=1.8"])
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    needs = ["transformers>=5.0,<6", "pooch>=1.8", "torch==2.9.0+cu128", "torch_xla==2.9.0"]
    assert pip.asked == [command + needs]
    assert "transformers>=5.0,<6, pooch>=1.8" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize("here", ["2.7.1", "2.14.0+cu130", "1.13"])
def test_a_torch_out_of_range_is_left_to_its_owner(pip, here):
    """pip was asked for the range and for the torch that is here, which is impossible."""
    pip.have |= {"torch": here, "transformers": "5.15.0"}
    with refused(f"torch {here} is here", "torch>=2.8,<2.14", "pip install", "restart the kernel"):
        pip.install(["torch>=2.8,<2.14", "transformers>=5.0,<6"])
    assert pip.asked == []


@pytest.mark.fault
def test_pip_fails_in_one_line(pip):
    pip.have |= {"torch": "2.9.0"}
    pip.fails()
    with refused("pip could not install pooch>=1.8, torch==2.9.0 for the reason above", "again"):
        pip.install(["torch>=2.8,<2.14", "pooch>=1.8"])


@pytest.mark.fault
@pytest.mark.parametrize(
    "here, fits",
    [
        ((3, 9, 18), False),
        ((3, 10, 0), True),
        ((3, 13, 5), True),
        ((3, 14, 0), False),
        ((4, 1, 0), False),
    ],
)
def test_a_python_that_the_notebooks_never_ran_on(pip, here, fits, monkeypatch):
    monkeypatch.setattr(sys, "version_info", here)
    line = error_message(pip.install, ["torch>=2.8,<2.14"])
    wanted = (
        f"this is Python {here[0]}.{here[1]}; the notebooks run on 3.10 to 3.13: choose a kernel"
    )
    assert line is None if fits else wanted in line


def test_noise_of_others_is_not_shown(monkeypatch):
    """What TensorFlow, triton, compilers and Lightning say unasked in a package set that is not ours."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    said = {
        "torch.utils.flop_counter": logging.WARNING,  # triton not found
        "lightning_fabric.utilities.rank_zero": logging.INFO,  # to use Tensor Cores you should ...
        "pytorch_lightning.utilities.rank_zero": logging.INFO,  # GPU available: False
    }
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        notebook_module.silence_warnings()
        warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication", stacklevel=1)
        warnings.warn("Detected call of `lr_scheduler.step()` before `optim", stacklevel=1)
        assert shown == []
        warnings.warn("something of the reader's own", stacklevel=1)
        assert len(shown) == 1
    for name, level in said.items():
        assert not logging.getLogger(name).isEnabledFor(level), name
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


# where it runs

bf16, f32, f16 = torch.bfloat16, torch.float32, torch.float16
A100, T4 = ("A100", 40e9, [8, 0]), ("Tesla T4", 16e9, [7, 5])


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Make this machine one of so many GPUs and TPU cores, with torch_xla as a stand-in."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_xla"]:
        monkeypatch.delitem(sys.modules, name)

    def use_cuda(*_):
        raise AssertionError("CUDA was initialised in the notebook's process")

    for name in ("_lazy_init", "get_device_capability", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, use_cuda)

    def make(
        gpus=0, cores=None, fast16=True, card=A100, xla=None, counts="return {cores}", chips=1,
        used=False,
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(hardware.Machine, "bf16", fast16)
        monkeypatch.setattr(hardware, "in_own_process", lambda function: [card] * gpus)
        if cores is not None:
            xla = xla or torch.__version__.partition("+")[0]
            internal = tmp_path / "torch_xla" / "_internal"
            internal.mkdir(parents=True)
            state = "class _XLAC:\n    _xla_runtime_is_initialized = staticmethod(lambda: {})\n"
            (tmp_path / "torch_xla" / "__init__.py").write_text(state.format(used))
            (internal / "__init__.py").touch()
            (internal / "tpu.py").write_text(
                f"def num_available_devices():\n    {counts.format(cores=cores)}\n"
                f"def num_available_chips():\n    return {chips}\n"
            )
            (tmp_path / f"torch_xla-{xla}.dist-info").mkdir()
            metadata = tmp_path / f"torch_xla-{xla}.dist-info" / "METADATA"
            metadata.write_text(f"Metadata-Version: 2.1\nName: torch_xla\nVersion: {xla}\n")
            monkeypatch.syspath_prepend(tmp_path)

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_xla"]:
        del sys.modules[name]


def where(arguments, device):
    """(accelerator, devices, strategy, Trainer's precision, dtype) as trainer_arguments has them."""
    assert arguments.keys() == {"accelerator", "devices", "num_nodes", "strategy", "precision"}
    assert device["kind"] == arguments["accelerator"]
    devices = arguments["devices"]
    assert device["processes"] == (devices if isinstance(devices, int) else len(devices))
    return *(arguments[n] for n in ("accelerator", "devices", "strategy", "precision")), device[
        "dtype"
    ]


def pretended(gpus=0, cores=None, fast16=True, **more):
    """A Pretended with what `machine` makes this machine have."""
    return hardware.Pretended(gpus, cores or 0, torch_xla=cores is not None, bf16=fast16, **more)


NOTHING, ONE_GPU, TWO_GPUS = {}, {"gpus": 1}, {"gpus": 2}
OLD_GPU, OLD_CPU = {"gpus": 1, "card": T4}, {"fast16": False}
ONE_CORE, EIGHT_CORES = {"cores": 1}, {"cores": 8}
NO_CORES = {"cores": 0}  # torch_xla is there, a TPU is not


@pytest.mark.parametrize(
    "there, asked, expected",
    [
        # nothing asked for: the best there is
        (NOTHING, {}, ("cpu", 1, "auto", "32-true", bf16)),
        (OLD_CPU, {}, ("cpu", 1, "auto", "32-true", f32)),
        (ONE_GPU, {}, ("gpu", 1, "auto", "32-true", bf16)),
        (OLD_GPU, {}, ("gpu", 1, "auto", "16-mixed", f16)),
        (TWO_GPUS, {}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (ONE_CORE, {}, ("tpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (NO_CORES, {}, ("cpu", 1, "auto", "32-true", bf16)),
        (ONE_GPU | NO_CORES, {}, ("gpu", 1, "auto", "32-true", bf16)),
        # the CPU
        (TWO_GPUS, {"gpus": 0}, ("cpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 0}, ("cpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "0"}, ("cpu", 1, "auto", "32-true", bf16)),
        (NOTHING, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        (EIGHT_CORES, {"cpu_processes": 2}, ("cpu", 2, "ddp_notebook", "32-true", bf16)),
        # GPUs
        (TWO_GPUS, {"gpus": 1}, ("gpu", 1, "auto", "32-true", bf16)),
        (TWO_GPUS, {"gpus": 2}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS, {"gpus": -1}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS | EIGHT_CORES, {"gpus": 2}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        (TWO_GPUS, {"gpus": 2, "strategy": "ddp"}, ("gpu", 2, "ddp_notebook", "32-true", bf16)),
        # TPU cores
        (ONE_CORE, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        (ONE_CORE, {"tpu_cores": -1}, ("tpu", 1, "auto", "32-true", bf16)),
        (ONE_CORE, {"tpu_cores": [0]}, ("tpu", [0], "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": 8}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "8"}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": -1}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "-1"}, ("tpu", 8, "tpu_cores", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": [7]}, ("tpu", [7], "auto", "32-true", bf16)),
        (EIGHT_CORES, {"tpu_cores": "[5]"}, ("tpu", [5], "auto", "32-true", bf16)),
        (ONE_GPU | ONE_CORE, {"tpu_cores": 1}, ("tpu", 1, "auto", "32-true", bf16)),
        # precision
        (NOTHING, {"precision": "32"}, ("cpu", 1, "auto", "32-true", f32)),
        (NOTHING, {"precision": 32}, ("cpu", 1, "auto", "32-true", f32)),
        (OLD_CPU, {"precision": "bf16"}, ("cpu", 1, "auto", "32-true", bf16)),
        (ONE_GPU, {"precision": "32"}, ("gpu", 1, "auto", "32-true", f32)),
        (ONE_GPU, {"precision": "bf16"}, ("gpu", 1, "auto", "32-true", bf16)),
        (OLD_GPU, {"precision": "16"}, ("gpu", 1, "auto", "16-mixed", f16)),
        (OLD_GPU, {"precision": 16}, ("gpu", 1, "auto", "16-mixed", f16)),
        (ONE_CORE, {"precision": "32"}, ("tpu", 1, "auto", "32-true", f32)),
    ],
)
def test_trainer_arguments(machine, there, asked, expected):
    machine(**there)
    assert where(*devices.trainer_arguments(**asked)) == expected
    assert where(*devices.trainer_arguments(**asked, machine=pretended(**there))) == expected


@pytest.mark.parametrize(
    "there, asked, words",
    [
        (NOTHING, {"gpus": 1}, ["gpus=1", "finds 0 GPUs", "pass gpus=0 (the CPU)", "GPU runtime"]),
        (NOTHING, {"gpus": -1}, ["gpus=-1", "finds 0 GPUs", "pass gpus=0"]),
        (TWO_GPUS, {"gpus": 3}, ["gpus=3", "finds 2 GPUs", "pass gpus=2 or fewer"]),
        (NOTHING, {"tpu_cores": 1}, ["tpu_cores=1", "torch_xla is not installed", "tpu_cores=0"]),
        (NOTHING, {"tpu_cores": [0]}, ["tpu_cores=[0]", "not installed", "setup_tpu.sh"]),
        (NO_CORES, {"tpu_cores": -1}, ["tpu_cores=-1", "has 0 TPU cores; pass 0 (no TPU)"]),
        (NO_CORES, {"tpu_cores": [0]}, ["tpu_cores=[0]", "has 0 TPU cores", "Colab", "Kaggle"]),
        (ONE_CORE, {"tpu_cores": 8}, ["has 1 TPU cores", "(v5e-1) has 1", "(v5e-8) has 8"]),
        (ONE_CORE, {"tpu_cores": [1]}, ["tpu_cores=[1]", "pass 0, 1 or [0]"]),
        (
            EIGHT_CORES,
            {"tpu_cores": 3},
            ["tpu_cores=3", "has 8 TPU cores; pass 0, 1, 8 (all) or [k]"],
        ),
        (EIGHT_CORES, {"tpu_cores": "[8]"}, ["tpu_cores=[8]", "k from 0 to 7"]),
        (EIGHT_CORES, {"tpu_cores": 16}, ["tpu_cores=16", "has 8 TPU cores"]),
        (NOTHING, {"precision": "16"}, ['precision="16" needs a GPU', "cpu", '"auto" or "32"']),
        (ONE_CORE, {"precision": 16}, ['precision="16" needs a GPU', "tpu"]),
        (OLD_GPU, {"precision": "bf16"}, ['precision="bf16"', "no bfloat16", '"16" or "32"']),
        (NOTHING, {"num_nodes": 2}, ["num_nodes=2", "torchrun or SLURM", "README"]),
        (NOTHING, {"strategy": "fsdp"}, ['strategy="fsdp" needs GPUs', "torchrun", '"auto"']),
        (TWO_GPUS, {"strategy": "fsdp"}, ['strategy="fsdp" needs GPUs', "torchrun", '"auto"']),
    ],
)
@pytest.mark.fault
def test_what_is_not_there_is_refused(machine, there, asked, words):
    machine(**there)
    for one in (None, pretended(**there)):
        with refused(*words):
            devices.trainer_arguments(**asked, machine=one)


def test_a_pretended_machine_has_all_answers_of_a_real_one():
    def answers(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert answers(hardware.Machine) == answers(hardware.Pretended())


@pytest.mark.parametrize("asked", [{}, {"tpu_cores": 1}, {"tpu_cores": -1}])
@pytest.mark.fault
def test_a_torch_xla_of_another_torch(machine, asked):
    machine(cores=8, xla="2.7.1")
    with refused(version("torch"), "2.7.1", "do not belong together", "setup_tpu.sh", "restart"):
        devices.trainer_arguments(**asked)
    found = devices.trainer_arguments(tpu_cores=0)
    assert found[1]["kind"] == "cpu"  # whoever asks for no TPU is not bothered


@pytest.mark.fault
def test_a_tpu_that_cannot_be_counted(machine):
    machine(cores=8, counts="raise OSError('no metadata server')")
    for cores in (None, 8):
        with refused("cannot be counted (OSError)", "TPU_SKIP_MDS_QUERY=1", "pass tpu_cores=0"):
            devices.trainer_arguments(tpu_cores=cores)
    assert devices.trainer_arguments(tpu_cores=0)[1]["kind"] == "cpu"


def test_a_machine_that_is_no_tpu_host_has_no_cores(machine):
    machine(cores=8, counts="raise OSError('no metadata server')", chips=0)
    assert devices.trainer_arguments()[1]["kind"] == "cpu"
    with refused("has 0 TPU cores"):
        devices.trainer_arguments(tpu_cores=1)


@pytest.mark.fault
def test_a_kernel_that_has_used_the_tpu(machine):
    machine(cores=8, used=True)
    for one in (None, pretended(cores=8, xla_is_used=True)):
        for asked in (8, -1, None):
            with refused("has used the TPU already", "restart the kernel"):
                devices.trainer_arguments(tpu_cores=asked, machine=one)
        for asked in (1, [3]):  # one core needs no other processes
            assert devices.trainer_arguments(tpu_cores=asked, machine=one)[1]["kind"] == "tpu"


def test_kaggles_setting_that_breaks_8_processes_goes(machine, monkeypatch):
    monkeypatch.setenv("TPU_PROCESS_ADDRESSES", "local")
    machine(cores=8)
    devices.trainer_arguments(tpu_cores=8)
    assert "TPU_PROCESS_ADDRESSES" not in hardware.os.environ


@pytest.mark.parametrize("launcher", ["TORCHELASTIC_RUN_ID", "SLURM_NTASKS"])
def test_several_machines(machine, monkeypatch, launcher):
    machine(gpus=2)
    monkeypatch.setenv(launcher, "6")
    for one in (None, pretended(gpus=2, launched=True)):
        arguments, device = devices.trainer_arguments(num_nodes=3, machine=one)
        assert (arguments["num_nodes"], arguments["devices"]) == (3, 2)
        assert arguments["strategy"] == "ddp"  # the launcher has started the processes
        assert device["processes"] == 2
        sharded = devices.trainer_arguments(num_nodes=3, strategy="fsdp", machine=one)[0]
        assert sharded["strategy"] == "fsdp"


@pytest.mark.parametrize(
    "name, capability, dtype",
    [
        ("H100", (9, 0), bf16),
        ("A100", (8, 0), bf16),
        ("L4", (8, 9), bf16),
        ("Tesla T4", (7, 5), f16),
        ("Tesla V100", (7, 0), f16),
        ("Tesla P100", (6, 0), f16),
        ("GTX 1080", (6, 1), f32),
        ("Tesla K80", (3, 7), f32),
    ],
)
def test_each_card_gets_what_it_multiplies_fastest(name, capability, dtype):
    machine = pretended(1, card=(name, 16e9, capability))
    arguments, device = devices.trainer_arguments(machine=machine)
    assert device["dtype"] == dtype and name in device["why"]
    assert arguments["precision"] == ("16-mixed" if dtype == f16 else "32-true")
    assert devices.trainer_arguments(machine=machine, precision="32")[1]["why"] == "as asked"


def test_a_gpu_is_asked_in_another_process(monkeypatch):
    """Counting and asking leave CUDA alone, or no process for each GPU could be started."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("_lazy_init", "get_device_capability", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("CUDA was initialised"))
    stand_in = """
import torch
from types import SimpleNamespace
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_properties = lambda i: SimpleNamespace(
    name="Tesla T4", total_memory=16, major=7, minor=5)
"""
    run = subprocess.run

    def with_a_card(command, **how):
        return run([*command[:2], stand_in + command[2]], **how)

    monkeypatch.setattr(hardware.subprocess, "run", with_a_card)
    machine = hardware.Machine()
    assert machine.card == ["Tesla T4", 16, [7, 5]]
    assert devices.trainer_arguments(tpu_cores=0, machine=machine)[1]["dtype"] == f16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks an x86 about its instructions")
def test_this_cpu_is_asked_about_bf16():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert hardware.Machine().bf16 == ("avx512_bf16" in flags or "amx_tile" in flags)


@pytest.mark.parametrize("notebook", NAMES)
def test_no_cell_gives_a_parameter_another_value(notebook):
    """Or the check, run again by itself, would refuse what the notebook itself has put there."""
    for cell in as_papermill_has_it(notebook).cells:
        tags = {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and cell.id != "library" and not tags:
            assert not parameters_of(notebook).keys() & set(assigned_names(cell.source)), cell.id
