"""Parameters: what is valid, what is refused and with which message, how they are documented."""

import importlib
import json
import re
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import NOTEBOOKS, ROOT, refused
from library import parameter_groups, parameters_cell
from mlm.env.notebook import error_message
from mlm.parameters.check import OTHER_NAMES, REMOVED, assigned_names, by_name, check_parameters

NAMES = [path.stem for path in NOTEBOOKS]


def parameters_of(notebook):
    """{name: Parameter} of a notebook."""
    return by_name(parameter_groups(notebook))


# parameter: (valid values, invalid values, values of another type)
VALUES = {
    "corpus": (
        ["nietzsche", "pydoc", "a.txt", "https://host/a.txt", ["a.txt", "texts/*.txt"]],
        ["", "  ", [], ["a.txt", ""], [7]],
        [7, None],
    ),
    "labelled": ([None, "reviews.csv", "folder"], ["", " "], [7]),
    "label_column": (["label", "my column"], ["", " "], [7, None]),
    "finetune_steps": ([0, 100], [-1, 10**6], [None, 1.5]),
    "column": (["text", "my column"], ["", " "], [7, None]),
    "encoding": ([None, "utf-8", "cp1252", "GB18030"], ["", "klingon", "base64"], [7, ["utf-8"]]),
    "documents": ([None, "file", "blank line", "line"], ["", "lines", "paragraph"], [7, True]),
    "valid_corpus": ([None, "held.txt"], ["", " "], [7, ["a.txt"]]),
    "general": ([None, "pydoc", "wiki.txt"], ["", " "], [7, ["a.txt"]]),
    "replay": ([None, "pydoc", "wiki.txt"], ["", " "], [7, ["a.txt"]]),
    "replay_fraction": ([0.1], [0, 1, 1.0, -0.1, float("nan")], [None, "a tenth"]),
    "model": (
        [
            "bert-base-uncased",
            "./folder",
            "scratch:tiny",
            "scratch:modern-base",
            "scratch:you/name",
        ],
        ["", "scratch:", "scratch:huge", "scratch: tiny", "scratch:modern-huge"],
        [None, 7],
    ),
    "max_len": ([8, 128, 8192], [7, 0, -1], ["many", 128.0, None, True]),
    "examples": (["line", "block", "stream"], ["lines", "", "Line"], [1, None]),
    "batch_size": ([1, 32, 65536], [0, -1, 65537], ["", 32.5, None]),
    "accumulate": ([1, 4], [0, -1, 65537], [None, 1.5]),
    "epochs": ([1, 100], [0, -1, 10**6], [1.5, None, "1.5"]),
    "max_steps": ([-1, 1, 10**6], [0, -2], [None, 1.0]),
    "lr": ([None, 1e-5, 1, 1.0], [0.0, -1e-5, 1.1, float("nan"), float("inf")], ["fast"]),
    "recipe": (["fast", "tutorial"], ["slow", ""], [None]),
    "optimizer": ([None, "adamw", "muon"], ["sgd", ""], [7]),
    "schedule": ([None, "trapezoid", "linear", "constant"], ["cosine", ""], [7]),
    "vocabulary": (
        [None, "wordpiece", "bpe-cased", "unigram:100", "bpe-cased:1000000"],
        ["", "bpe:", "BPE", "bpe:99", "bpe:1000001", "cased", "bpe:8000-cased"],
        [8000, ["bpe"]],
    ),
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
    "precision": (["auto", "32", "bf16", "16", 32, 16], ["64", 64, "", "bf16-mixed"], [None, 32.0]),
    "gradient_checkpointing": (["auto", True, False], ["on", ""], [None, 1]),
    "kernels": (["auto", "default-sdpa-torch", "onednn-matmul-16bit"], ["mkl", ""], [None, 1]),
    "compile": (["auto", True, False], ["yes", ""], [None, 1]),
    "checkpoint_steps": ([1, 500], [0, -1], [None, 0.5]),
    "checkpoint_minutes": ([0.1, 10, 10.0], [0, -1.0, float("nan")], [None, "ten"]),
    "keep": (["last", "best"], ["first", ""], [None, True]),
    "evaluations": ([1, 4, 100000], [0, -1, 100001], [None, 2.5]),
    "patience": ([0, 1, 100], [-1], [None, 0.5, "none"]),
    "logger": (
        ["csv", "none", ["wandb", "mlflow"]],
        ["", "csv,wandb", [], ["none", "csv"]],
        [None, 1],
    ),
    "seed": ([0, 2**32 - 1], [-1, 2**32], [None, 0.5, "zero"]),
    "workdir": (
        ["bert-mlm", "/tmp/x", "~/x"],
        ["", " ", "gs://bucket/runs", "$SCRATCH/runs"],
        [None],
    ),
    "run_name": (
        ["run", "run-2", "Läufe_3.b", "r" * 200],
        ["", "a/b", "../run", ".hidden", "a b", "corpus", "Corpus", "run\n", "r" * 201, "ä" * 101],
        [7],
    ),
    "resume": (["auto", "never"], ["always", ""], [None, True]),
    "sentence": ([None, "What is [MASK]?"], ["", "no mask"], [7]),
    "sentence_transformers": ([True, False], [], [None, 1, "yes"]),
    "widget": ([0, 3, 8], [-1, 9], [None, 1.5, "three"]),
    "onnx": ([True, False], [], [None, 1, "yes"]),
    "page": ([True, False], [], [None, 1, "yes"]),
    "upload": ([None, "you/name"], ["name", "a/b/c", ""], [7]),
    "top_k": ([1, 8], [0, 101], [None, "eight"]),
    "race_lines": ([None, 1, 5000], [0, -1, 10**8], [1.5, "all"]),
    "repeats": ([1, 3], [0, 101], [None, 1.5]),
    "steps": ([2, 30], [1, 0, 10**6], [None]),
}


def check(notebook, values=None, edit=lambda source: source, before=(), after=()):
    """Run the parameters cell and the check as a kernel does, with papermill's values; the result.

    `edit` changes the parameters cell. `before` and `after` are cells that somebody ran by hand before
    and after it.
    """
    cell = new_code_cell(parameters_cell(notebook), metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    empty = new_notebook(cells=[cell], metadata={"kernelspec": kernel, "papermill": {}})
    cells = parameterize_notebook(empty, values or {}).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    cells[0].source = edit(cells[0].source)
    namespace: dict[str, Any] = {"In": [""]}
    for source in (*before, *(cell.source for cell in cells), *after):
        namespace["In"].append(source)
        exec(source, namespace)
    namespace["In"] += ["load_library(EMBEDDED)", "check_parameters(globals(), ...)"]
    parameters = check_parameters(namespace, parameter_groups(notebook))
    assert all(namespace[name] == value for name, value in parameters.items())
    return parameters


def replaced(old, new):
    """An edit of the parameters cell, in which `old` must occur."""

    def edit(source):
        assert old in source
        return source.replace(old, new)

    return edit


# the notebooks


@pytest.mark.parametrize("notebook", NAMES)
def test_defaults_are_valid(notebook, capsys):
    assert check(notebook) == {n: p.default for n, p in parameters_of(notebook).items()}
    assert capsys.readouterr().out == "Parameters changed from their defaults: none\n"


@pytest.mark.parametrize("notebook", NAMES)
def test_papermill_documents_every_parameter(notebook, tmp_path):
    """As `papermill --help-notebook` shows it. Comment headings between the parameters do no harm."""
    file = load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    for cell in file.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = parameters_cell(notebook)
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps(file))
    shown = inspect_notebook(str(path))
    known = parameters_of(notebook)
    assert list(shown) == list(known)
    for name, entry in shown.items():
        assert entry["inferred_type_name"] == known[name].type
        assert entry["help"] == known[name].meaning and len(entry["help"]) > 5


@pytest.mark.parametrize("notebook", NAMES)
def test_the_check_cell_comes_before_any_other_code(notebook):
    cells = load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb")).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.id for cell in code[:3]] == ["parameters", "library", "check"]
    module = (
        parameter_groups(notebook) is importlib.import_module(imported(code[2].source)).PARAMETERS
    )
    assert module and "check_parameters(globals(), PARAMETERS)" in code[2].source


def imported(source):
    """The module from which a cell imports PARAMETERS."""
    (module,) = re.findall("from (.+) import PARAMETERS", source)
    return module


@pytest.mark.parametrize("notebook", NAMES)
def test_no_cell_assigns_to_a_parameter(notebook):
    """Otherwise the check, run again by itself, would refuse a value that the notebook has set."""
    for cell in load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb")).cells:
        tags = {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and cell.id != "library" and not tags:
            assert not parameters_of(notebook).keys() & set(assigned_names(cell.source)), cell.id


@pytest.mark.parametrize("notebook", NAMES)
def test_a_parameters_cell_needs_no_formatting(notebook):
    """The formatter would break a line of more than 100 characters."""
    assert [line for line in parameters_cell(notebook).splitlines() if len(line) > 100] == []


def test_the_parameters_of_04_are_grouped():
    """The eight that most people set come first."""
    headings = re.findall(r"^\n# (.+)\n((?:.+\n?)+)", parameters_cell("04_train"), re.M)
    groups = {heading: assigned_names(block) for heading, block in headings}
    assert list(groups) == [
        "Most used", "Text", "Masking", "Optimizer", "Hardware", "Checkpoints and evaluation",
    ]  # fmt: skip
    assert len(groups["Most used"]) == 8 and "corpus" in groups["Most used"]
    assert [n for names in groups.values() for n in names] == list(parameters_of("04_train"))


# values


def test_every_parameter_is_tried_below():
    assert VALUES.keys() == {name for notebook in NAMES for name in parameters_of(notebook)}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.fault
def test_valid_values_pass_and_others_are_refused(name, capsys):
    """The message names the parameter, what is valid and what was given.

    A number may be given as text if the parameter is never text.
    """
    using = [notebook for notebook in NAMES if name in parameters_of(notebook)]
    assert using
    for notebook in using:
        parameter = parameters_of(notebook)[name]
        types, must_be = parameter.type_names, f"{name} must be {parameter.valid.text}, got"
        valid, invalid, wrong_type = VALUES[name]
        if (notebook, name) == ("06_speed", "precision"):  # it measures no float16
            valid = [value for value in valid if str(value) != "16"]
        for value in valid:
            assert check(notebook, {name: value})[name] == value
        for value in invalid:
            with refused(must_be, repr(value)):
                check(notebook, {name: value})
        for value in [] if "str" in types else valid:
            if value is not None:
                result = check(notebook, {name: str(value)})[name]
                assert result == value and type(result).__name__ in types
        for value in [] if "str" in types else invalid:
            with refused(must_be):
                check(notebook, {name: str(value)})
        for value in wrong_type:
            if value is None and "NoneType" in types:
                continue
            if isinstance(value, tuple):  # papermill itself has no tuples
                continue
            with refused(
                f"{name} must be of type", f"got {value!r} of type {type(value).__name__}"
            ):
                check(notebook, {name: value})


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.fault
def test_no_number_is_infinite(value):
    """JSON has no such numbers, and run.json, which has all parameters, is written after training."""
    valid = {
        name
        for notebook in NAMES
        for name, parameter in parameters_of(notebook).items()
        if "float" in parameter.type_names and parameter.valid.check(value)
    }
    assert valid == set()


@pytest.mark.parametrize("notebook", NAMES)
@pytest.mark.fault
def test_half_of_a_surrogate_pair_is_refused_in_every_text(notebook):
    """UTF-8 has no such characters; an escape in the parameters cell makes one."""
    value = "this [MASK] is \ud83d\ude00"
    for name, parameter in parameters_of(notebook).items():
        given = {"str": value, "list": [value]}
        for each in (given[kind] for kind in given if kind in parameter.type_names):
            with refused(f"{name} must be", "surrogate", repr(each)):
                check(notebook, {name: each})


@pytest.mark.parametrize("notebook", NAMES)
def test_a_corpus_comes_with_the_parameters_that_its_errors_advise_to_pass(notebook):
    names = parameters_of(notebook).keys()
    assert "corpus" not in names or {"column", "encoding"} <= names


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"max_len": 7},
            "max_len must be at least 8, and at most the model's number of positions (BERT: 512), got 7",
        ),
        ({"lr": 3}, "lr must be above 0 and at most 1, or None (the recipe's), got 3"),
        ({"keep": "first"}, 'keep must be "last" or "best", got \'first\''),
        (
            {"schedule": "cosine"},
            'schedule must be "constant", "linear" or "trapezoid", or None (the recipe\'s), got \'cosine\'',
        ),
        ({"epochs": "many"}, "epochs must be of type int, got 'many' of type str"),
        (
            {"model": "scratch:huge"},
            "modern-base or the Hub name or folder of another model, got 'scratch:huge'",
        ),
    ],
)
@pytest.mark.fault
def test_messages(values, message):
    with refused() as line:
        check("04_train", values)
    assert line().endswith(message)


@pytest.mark.parametrize(
    "values, names",
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
def test_only_one_kind_of_device_can_be_set(notebook, values, names):
    with refused(names, "set only one"):
        check(notebook, values)


@pytest.mark.fault
def test_replay_is_for_a_pretrained_model_and_its_fraction_for_replay():
    with refused("replay must be None", "scratch:tiny", "nothing to forget", 'corpus=["a.txt*2"'):
        check("04_train", {"replay": "pydoc", "model": "scratch:tiny"})
    with refused("replay_fraction=0.2 has no effect without replay"):
        check("04_train", {"replay_fraction": 0.2})
    check("04_train", {"replay": "pydoc", "replay_fraction": 0.2})


@pytest.mark.parametrize(
    "values",
    [
        {"gpus": 0, "tpu_cores": 0},
        {"gpus": 0, "tpu_cores": 8},
        {"gpus": 2, "tpu_cores": 0},
        {"gpus": 0, "tpu_cores": "0", "cpu_processes": 2},
    ],
)
def test_a_kind_of_device_that_is_set_to_none_does_not_count(values):
    assert check("04_train", values).items() >= values.items()


@pytest.mark.parametrize(
    "name, text, number",
    [("lr", "1e-4", 1e-4), ("epochs", "3", 3), ("mlm_probability", "0.4", 0.4), ("lr", "1", 1.0)],
)
def test_a_number_given_as_text_is_converted(name, text, number):
    """YAML reads 1e-4 as text, and papermill's -r passes everything as text."""
    value = check("04_train", {name: text})[name]
    assert value == number and not isinstance(value, str)


@pytest.mark.parametrize("name, value", [("run_name", 2024), ("workdir", 7), ("corpus", 1984)])
@pytest.mark.fault
def test_text_that_papermill_reads_as_a_number_is_refused_with_the_option_to_use(name, value):
    with refused(f"{name} must be of type", f"got {value} of type int", f"pass -r {name} {value}"):
        check("04_train", {name: value})


def test_changed_parameters_are_printed(capsys):
    check("04_train", {"epochs": 3, "lr": 1e-4, "corpus": "nietzsche"})
    assert capsys.readouterr().out == (
        "Parameters changed from their defaults: epochs = 3 (default 1); lr = 0.0001 (default None)\n"
    )


# names


@pytest.mark.parametrize("notebook", NAMES)
@pytest.mark.fault
def test_a_parameter_that_was_deleted_is_missing(notebook):
    for name in parameters_of(notebook):
        with refused(f"parameter {name!r} is missing", "first code cell"):
            check(
                notebook,
                edit=lambda source, n=name: re.sub(rf"^{n}: .*\n?", "", source, flags=re.M),
            )


@pytest.mark.parametrize(
    "given, meant",
    [
        ("batchsize", "batch_size"),
        ("Epochs", "epochs"),
        ("maxlen", "max_len"),
        ("tpu_core", "tpu_cores"),
        ("gpu", "gpus"),
        ("mlm_prob", "mlm_probability"),
        ("random_seed", "seed"),
        *OTHER_NAMES.items(),
    ],
)
@pytest.mark.fault
def test_an_unknown_name_is_refused_with_the_name_that_was_meant(given, meant):
    with refused(f"unknown parameter {given!r}: did you mean {meant!r}?"):
        check("04_train", {given: 3, "epochs": 2})


@pytest.mark.fault
def test_an_unknown_name_that_resembles_none_is_refused_with_all_names():
    with refused("unknown parameter 'learning_rate': the parameters are gpus, tpu_cores, cpu_pro"):
        check("01_setup", {"learning_rate": 0.1})


@pytest.mark.parametrize("name, reason", REMOVED.items())
@pytest.mark.fault
def test_a_removed_parameter_is_refused_with_the_reason(name, reason):
    for notebook in NAMES:
        assert name not in parameters_of(notebook)
        with refused(f"parameter {name!r} was removed ({reason}): delete it"):
            check(notebook, {name: 0.1})


def test_other_names_lead_to_parameters():
    assert set(OTHER_NAMES.values()) <= parameters_of("04_train").keys()
    assert not (OTHER_NAMES.keys() | REMOVED.keys()) & {
        name for notebook in NAMES for name in parameters_of(notebook)
    }


@pytest.mark.fault
def test_an_unknown_name_in_the_first_cell_is_refused():
    """Also if papermill adds a cell of its own after it."""
    for values in ({}, {"epochs": 2}):
        with refused("unknown parameter 'batchsize'", "did you mean 'batch_size'?"):
            check("04_train", values, edit=lambda source: source + "\nbatchsize = 4")


# edits in a kernel


def test_a_value_may_be_an_expression():
    edit = replaced("epochs: int = 1", "epochs: int = 2 * 5")
    assert check("04_train", edit=edit)["epochs"] == 10


def test_a_parameter_needs_no_annotation():
    edit = replaced("epochs: int = 1 ", "epochs = 3 ")
    assert check("04_train", edit=edit)["epochs"] == 3
    edit = replaced("lr: Optional[float] = None", "lr = 1e-4")
    assert check("04_train", edit=edit)["lr"] == 1e-4


def test_the_defaults_are_known_after_an_edit(capsys):
    """In Jupyter, the edited cell is all there is."""
    check("04_train", edit=replaced("epochs: int = 1 ", "epochs: int = 3 "))
    assert capsys.readouterr().out.endswith("defaults: epochs = 3 (default 1)\n")


def test_only_the_last_run_of_the_parameters_cell_counts():
    """It was run with a misspelt name, corrected and run again."""
    cell = parameters_cell("04_train")
    check("04_train", before=[cell + "\nbatchsize = 4", cell])


@pytest.mark.fault
def test_a_parameter_renamed_in_a_warm_kernel_is_refused():
    """The old name still has its value from the run before: it must not count."""
    cell = parameters_cell("04_train")
    with refused("unknown parameter 'epoch'", "did you mean 'epochs'?"):
        check("04_train", before=[cell], edit=replaced("epochs: int", "epoch: int"))


@pytest.mark.fault
def test_a_misspelt_name_is_found_whatever_else_was_run():
    """Cells that ran after the parameters cell, and other lines in it."""
    misspelt = replaced("epochs: int", "epoch: int")
    cell = parameters_cell("04_train")
    for more in ('run_name = "another"', "x = 5\nepochs = 2", "print(seed)"):
        with refused("unknown parameter 'epoch'", "did you mean 'epochs'?"):
            check("04_train", before=[cell], edit=misspelt, after=[more])
    for edit in (lambda s: misspelt(s) + "\nprint(epoch)", lambda s: s + "\nepochz, y = 1, 2"):
        with refused("unknown parameter 'epoch"):
            check("04_train", before=[cell], edit=edit)


def test_other_variables_in_the_kernel_are_ignored():
    parameters = check(
        "04_train", before=["x = 5"], after=["x = 6", "import os\ny = x", "print(x)"]
    )
    assert "x" not in parameters
    assert check("04_train", after=['run_name = "another"'])["run_name"] == "another"
    assert check("04_train", after=["x = 5\nepochs = 2"])["epochs"] == 2


def test_values_are_checked_without_a_history():
    """nbval leaves In empty."""
    namespace = {"In": [""]}
    exec(parameters_cell("02_corpus"), namespace)
    assert check_parameters(namespace, parameter_groups("02_corpus"))["corpus"] == "nietzsche"
    namespace["corpus"] = ""
    assert "corpus must be" in error_message(
        check_parameters, namespace, parameter_groups("02_corpus")
    )


def defaults(notebook):
    return {name: parameter.default for name, parameter in parameters_of(notebook).items()}


def test_a_bool_given_as_text_is_a_bool_also_where_text_is_valid():
    namespace = defaults("04_train") | {"gradient_checkpointing": "True", "compile": "False"}
    check_parameters(namespace, parameter_groups("04_train"))
    assert namespace["gradient_checkpointing"] is True and namespace["compile"] is False


@pytest.mark.parametrize("notebook", NAMES)
def test_none_given_as_text_is_none(notebook):
    """YAML reads None as text."""
    optional = [n for n, p in parameters_of(notebook).items() if "NoneType" in p.type_names]
    for name in optional:
        assert check(notebook, {name: "None"})[name] is None


@pytest.mark.parametrize(
    "name, value, hint", [("corpus", 1984, True), ("logger", True, False), ("vocabulary", 7, False)]
)
def test_the_advice_to_pass_text_is_given_only_where_the_text_would_be_valid(name, value, hint):
    with refused(f"{name} must be of type") as message:
        check_parameters(defaults("04_train") | {name: value}, parameter_groups("04_train"))
    assert ("pass -r" in message()) == hint
