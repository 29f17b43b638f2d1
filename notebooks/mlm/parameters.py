"""Every parameter of the notebooks: name, type, default, meaning and valid values, once.

The parameters cells are written from TABLE (`make fix`), and `check_parameters` checks against it. To
add a parameter, add a row here and use its name in a cell of the notebook.

Values are checked before packages are installed, so nothing here imports torch, numpy or transformers.
"""

import ast
import contextlib
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlm.data.text_options import DOCUMENTS, is_encoding
from mlm.data.vocabulary_names import KINDS, MAX_SIZE, MIN_SIZE, is_vocabulary
from mlm.env.logger_names import LOGGER_NAMES, NO_LOGGER, is_logger
from mlm.env.names import public_name, public_names, shown_value, stored_model
from mlm.env.notebook import NotebookError
from mlm.env.scratch import MODERN, PREFIX, SIZES, WIDTHS, is_scratch
from mlm.models.kernels import KERNELS
from mlm.optim.schedule import SCHEDULES

# valid values


@dataclass(frozen=True)
class Valid:
    """Which values are valid: in words that complete "must be ...", and as a function."""

    text: str
    check: Callable[[Any], bool]


def literal(value: Any) -> str:
    """A value as it is written in a parameters cell; text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def join_or(texts: Iterable[str]) -> str:
    """Texts as "a, b or c"."""
    *others, last = texts
    return f"{', '.join(others)} or {last}" if others else last


def one_of(*choices: Any, convert: Callable[[Any], Any] = lambda value: value) -> Valid:
    """Valid is one of these values, after `convert`."""
    return Valid(join_or(map(literal, choices)), lambda value: convert(value) in choices)


def number(
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Valid:
    """Valid are the numbers between these bounds; NaN never is."""
    texts = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    text = " and ".join(f"{words} {bound}" for words, bound in texts.items() if bound is not None)
    if at_least is not None and at_most is not None:
        text = f"{at_least} to {at_most}"

    def check(value: Any) -> bool:
        return (
            (at_least is None or value >= at_least)
            and (at_most is None or value <= at_most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    return Valid(text, check)


def either(special: Any, meaning: str, otherwise: Valid) -> Valid:
    """Valid is a special value, which has this meaning, and what is valid `otherwise`."""
    text = f"{otherwise.text}, or {special} ({meaning})"
    return Valid(text, lambda value: value == special or otherwise.check(value))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def is_corpus(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return texts != [] and all(map(is_text, texts))


def is_model(value: str) -> bool:
    return is_text(value) and (not value.startswith(PREFIX) or is_scratch(value))


def is_replacement(value: str) -> bool:
    return bool(re.fullmatch(r"\d+/\d+/\d+", value)) and sum(map(int, value.split("/"))) == 100


TEXTS = '"nietzsche", "pydoc", a file, folder, pattern or URL, hf://datasets/... or hf:NAME:SPLIT'
CORPUS = Valid(f'{TEXTS}, or a list of these, also with weights ("wiki.txt*2")', is_corpus)
NAMES = join_or([*SIZES, "the Hub name or folder of another model"])
MODEL = Valid(f'a Hub name, a folder, or "{PREFIX}" and {NAMES}', is_model)
SCRATCH_NAMES = f'"{PREFIX}[{MODERN}]{"|".join(WIDTHS)}"'
VOCABULARY = Valid(
    f'{join_or(map(literal, KINDS))}, optionally with "-cased" and a number of tokens from {MIN_SIZE:,} to '
    f'{MAX_SIZE:,}, such as "bpe-cased:16000"',
    is_vocabulary,
)
COLUMN = Valid("the name of a column", is_text)
FOLDER = Valid("the path of a folder", is_text)
RUN_NAME = Valid(
    'a name of letters, digits, "_", "-" and ".", but not "corpus", the folder of the texts',
    lambda value: value != "corpus" and bool(re.fullmatch(r"\w[\w.\-]*", value)),
)
LOGGER = Valid(
    f"{join_or(map(literal, (*LOGGER_NAMES, NO_LOGGER)))}, or a list of several, without {literal(NO_LOGGER)}",
    is_logger,
)
SEED = number(at_least=0, at_most=2**32 - 1)
POSITIVE = number(at_least=1)
RECIPE = "the recipe's"

# the table


@dataclass(frozen=True)
class Parameter:
    """A parameter of one or several notebooks."""

    notebooks: str  # their numbers, "03 04"
    name: str
    type: str  # an annotation that papermill understands
    default: Any
    meaning: str  # the comment in the parameters cell, without "=": papermill cannot read it
    valid: Valid

    @property
    def type_names(self) -> set[str]:
        """The names of the Python types that a value may have."""
        names = re.findall(r"\w+", self.type)
        return {"NoneType" if name == "Optional" else name for name in names if name != "Union"}

    @property
    def line(self) -> str:
        """The line of this parameter in a parameters cell."""
        return f"{self.name}: {self.type} = {literal(self.default)}  # {self.meaning}"


P = Parameter
# fmt: off
TABLE = {  # {heading in the parameters cell: parameters}
    "Most used": [
        P("05", "sentence", "Optional[str]", None, "your own, with [MASK]; None: a validation line of the run",
          either(None, "a validation line of the run",
                 Valid("a sentence with at least one [MASK]", lambda v: "[MASK]" in v))),
        P("05", "top_k", "int", 8, "number of predictions for each [MASK]", number(1, 100)),
        P("07", "labelled", "Optional[str]", None, "CSV, JSON lines, parquet, folder of folders; None: Python's manual",
          either(None, "passages of Python's manual",
                 Valid("a table (CSV, JSON lines, parquet), or a folder with a folder of texts for each class", is_text))),
        P("07", "column", "str", "text", "the column of the texts, if labelled is a table", COLUMN),
        P("07", "label_column", "str", "label", "the column of the classes, if labelled is a table", COLUMN),
        P("07", "finetune_steps", "int", 100, "optimizer steps of each fine-tuning; 0: no fine-tuning", number(0, 100_000)),
        P("02 03 03b 04 06", "corpus", "Union[str, list]", "nietzsche",
          '"nietzsche", "pydoc" (no network), file, folder, URL, list', CORPUS),
        P("03 03b 04 06", "model", "str", "bert-base-uncased",
          f"Hub name, folder, or {SCRATCH_NAMES}", MODEL),
        P("04", "epochs", "int", 1, "passes over the training text", number(1, 100_000)),
        P("04", "batch_size", "Optional[int]", 32,
          "examples per batch and process; None: what fits the device",
          either(None, "what fits the device", number(1, 65_536))),
        P("03 03b", "batch_size", "int", 32, "examples per batch and process", number(1, 65_536)),
        P("06", "batch_size", "int", 32, "examples per batch, unless a variant sets 4", number(1, 65_536)),
        P("04", "lr", "Optional[float]", None, "peak learning rate; None: see Recipe",
          either(None, RECIPE, number(above=0, at_most=1))),
        P("06", "steps", "int", 20, "each variant trains on steps * batch_size lines", number(2, 10_000)),
        P("06", "race_lines", "Optional[int]", None, "lines in the race of recipes; None: steps * batch_size",
          either(None, "steps * batch_size", number(1, 10_000_000))),
        P("06", "repeats", "int", 3, "repetitions of each measurement", number(1, 100)),
        P("03 03b 04 06", "seed", "int", 0, "of weights, data order, masks and dropout", SEED),
        P("05", "seed", "int", 0, "of shuffled sentences and untrained weights", SEED),
        P("02 03 03b 04 06", "workdir", "str", "bert-mlm", "the folder for all files, read and written", FOLDER),
        P("07", "seed", "int", 0, "of the split, the labelled samples and untrained weights", SEED),
        P("05 07", "workdir", "str", "bert-mlm", "the workdir of 04", FOLDER),
        P("04", "run_name", "str", "run", "the folder of this run in workdir", RUN_NAME),
        P("05 07", "run_name", "Optional[str]", None, 'the folder of a run in workdir; None: "run", if it exists',
          either(None, '"run", if it exists', RUN_NAME)),
        P("05", "upload", "Optional[str]", None,
          '"you/name": upload the model to the Hub (private, your token)',
          either(None, "no upload", Valid('"you/name"', lambda v: v.count("/") == 1))),
        P("05", "onnx", "bool", False, "also export the model as model/onnx/model.onnx", one_of(True, False)),
        P("07", "sentence_transformers", "bool", False, "also write what sentence-transformers needs into model/",
          one_of(True, False)),
        P("05", "page", "bool", False, "also write a page for the browser, <run>/page/ (needs npm)", one_of(True, False)),
    ],
    "If no run exists": [
        P("05 07", "model", "str", "bert-base-uncased", 'Hub name, folder, or untrained: "scratch:tiny"',
          MODEL),
        P("05 07", "corpus", "Union[str, list]", "nietzsche", 'the text for the vocabulary of "scratch:" models',
          CORPUS),
        P("05", "vocabulary", "Optional[str]", None,
          'of a "scratch:" model, as "bpe-cased:16000"; None: chosen',
          either(None, "what fits the text", VOCABULARY)),
    ],
    "Text": [
        P("02 03 03b 04 06", "column", "str", "text", "the column to read, if the corpus is a table",
          COLUMN),
        P("02 03 03b 04 06", "encoding", "Optional[str]", None, "encoding of the text files; None: UTF-8",
          either(None, "UTF-8", Valid('an encoding that Python knows, such as "cp1252" or "gb18030"', is_encoding))),
        P("02 03 03b 04 06", "documents", "Optional[str]", None,
          'what ends a document: "file", "blank line", "line"; None: chosen',
          either(None, "chosen for the text", one_of(*DOCUMENTS))),
        P("03 03b 04 06", "valid_corpus", "Optional[str]", None,
          "validation text; None: a tenth of the corpus",
          either(None, "a tenth of the corpus", Valid(TEXTS, is_text))),
        P("04", "general", "Optional[str]", None,
          "text to measure forgetting on; None: Python's manual",
          either(None, "Python's manual", Valid(TEXTS, is_text))),
        P("04", "replay", "Optional[str]", None,
          "general text mixed into training against forgetting",
          either(None, "no replay", Valid(TEXTS, is_text))),
        P("04", "replay_fraction", "float", 0.1, "fraction of each epoch's examples that are of replay",
          number(above=0, below=1)),
        P("03 03b 04", "examples", "str", "line",
          '"line": one each; "block": a document cut up; "stream": all text cut up',
          one_of("line", "block", "stream")),
        P("03 03b 04 06", "max_len", "int", 128, "longest example in tokens, with [CLS] and [SEP]",
          Valid("at least 8, and at most the model's number of positions (BERT: 512)", number(8).check)),
        P("03 03b 04 06", "vocabulary", "Optional[str]", None,
          'of a "scratch:" model, as "bpe-cased:16000"; None: chosen',
          either(None, "what fits the text", VOCABULARY)),
        P("04", "add_words", "int", 0, "number of frequent words to add to the vocabulary", number(0, 20_000)),
    ],
    "Masking": [
        P("04", "mlm_probability", "Optional[float]", None,
          "fraction of tokens that are masked; None: see Recipe",
          either(None, RECIPE, number(above=0, below=1))),
        P("03 03b 06", "mlm_probability", "float", 0.15, "fraction of tokens that are masked",
          number(above=0, below=1)),
        P("03 03b 04", "masking", "str", "token", '"token": each token by itself; "word": whole words',
          one_of("token", "word")),
        P("04", "replace", "str", "80/10/10",
          "% of masked tokens: replaced by [MASK], by a random token, unchanged",
          Valid('three percentages with the sum 100, such as "80/10/10" or "100/0/0"', is_replacement)),
    ],
    "Optimizer": [
        P("04", "recipe", "str", "fast",
          '"fast": chosen for model and batch size; "tutorial": as in 2020',
          one_of("fast", "tutorial")),
        P("04", "optimizer", "Optional[str]", None, '"adamw" or "muon"; None: the recipe\'s',
          either(None, RECIPE, one_of("adamw", "muon"))),
        P("04", "schedule", "Optional[str]", None,
          f"{join_or(map(literal, SCHEDULES))}; None: see Recipe",
          either(None, RECIPE, one_of(*SCHEDULES))),
        P("04", "accumulate", "int", 1, "gradient accumulation: batches per optimizer step", number(1, 65_536)),
        P("04", "max_steps", "int", -1, "stop after this number of optimizer steps; -1: after all epochs",
          either(-1, "all epochs", POSITIVE)),
        P("04", "weight_decay", "Optional[float]", None, "weight decay of weight matrices; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=1))),
        P("04", "clip", "Optional[float]", None, "gradient clipping: largest norm, 0: off; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=float("inf")))),
        P("04", "dropout", "Optional[float]", None, "dropout rate, 0.1 in BERT; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=1))),
    ],
    "Hardware": [
        P("01 04", "gpus", "Optional[int]", None, "a number; 0: none; -1: all, an error if none; None: all there are",
          either(None, "all there are", Valid("-1 (all), 0 (none) or a number", lambda v: v >= -1))),
        P("01 04", "tpu_cores", "Optional[Union[int, str, list]]", None,
          "0, 1, 8, -1: all, [k]: core k; None: all here",
          either(None, "all there are",
                 Valid("0 (none), 1, the number of all cores, -1 (all) or [k] (one by index)",
                       lambda v: bool(re.fullmatch(r"-1|\d+|\[\s*\d+\s*\]", str(v)))))),
        P("01 04", "cpu_processes", "int", 1, "processes on the CPU, to try training on several devices",
          number(1, 1024)),
        P("01 04", "num_nodes", "int", 1, "machines, each started by torchrun or SLURM", number(1, 4096)),
        P("01 04", "precision", "Union[int, str]", "auto",
          '"auto" (the fastest here), "32", "bf16" or "16" (GPUs)',
          one_of("auto", "32", "bf16", "16", convert=str)),
        P("06", "precision", "Union[int, str]", "auto",
          '"auto" (the fastest here), "32" or "bf16"',
          one_of("auto", "32", "bf16", convert=str)),
        P("04", "kernels", "str", "auto", 'CPU kernels: "auto" (the fastest here, timed) or a name, see docs/speed.md',
          one_of("auto", *KERNELS)),
        P("04", "compile", "Union[bool, str]", "auto", '"auto": CUDA graph if faster; True: torch.compile; False: off',
          one_of("auto", True, False)),
        P("04", "gradient_checkpointing", "Union[bool, str]", "auto",
          'saves memory, takes time; "auto": if needed', one_of("auto", True, False)),
    ],
    "Checkpoints and evaluation": [
        P("04", "evaluations", "int", 4, "evaluations during training, besides one before it",
          number(1, 100_000)),
        P("04", "patience", "int", 0,
          "early stopping: evaluations without improvement before stopping, 0: off", number(at_least=0)),
        P("04", "keep", "str", "last", 'weights to save: "last" or "best" (lowest validation loss)',
          one_of("last", "best")),
        P("04", "widget", "int", 3, "number of validation lines in the model card, as examples; 0: none", number(0, 8)),
        P("04", "checkpoint_steps", "int", 500, "optimizer steps between checkpoints ...", POSITIVE),
        P("04", "checkpoint_minutes", "float", 10.0, "... or minutes, whichever comes first", number(above=0)),
        P("04", "logger", "Union[str, list]", "tensorboard",
          "where curves are shown; see docs/loggers.md", LOGGER),
        P("04", "resume", "str", "auto", '"auto": continue an unfinished run; "never": start in a new folder',
          one_of("auto", "never")),
    ],
}
# fmt: on
REMOVED = {  # parameters of earlier versions: why they are gone
    "mlm_probability_end": "a masking rate that falls gained nothing, see docs/experiments.md",
    "race_epochs": "pass race_lines: more lines tell more than more epochs of few",
    "strategy": "several devices always share the work by DDP; fsdp never worked, see docs/gpus.md",
}
OTHER_NAMES = {  # in earlier versions, in transformers or elsewhere: the name here
    "bs": "batch_size",
    "early_stopping_patience": "patience",
    "gradient_accumulation_steps": "accumulate",
    "learning_rate": "lr",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "clip",
    "max_seq_length": "max_len",
    "model_name_or_path": "model",
    "num_train_epochs": "epochs",
    "output_dir": "workdir",
    "per_device_train_batch_size": "batch_size",
    "report_to": "logger",
    "train_file": "corpus",
    "validation_file": "valid_corpus",
}


def groups_of(notebook: str) -> dict[str, list[Parameter]]:
    """{heading: parameters} of a notebook, "04_train" for example, without empty groups."""
    number = notebook.partition("_")[0]
    groups = {
        heading: [p for p in parameters if number in p.notebooks.split()]
        for heading, parameters in TABLE.items()
    }
    return {heading: parameters for heading, parameters in groups.items() if parameters}


def parameters_of(notebook: str) -> dict[str, Parameter]:
    """{name: Parameter} of a notebook, in the order of its parameters cell."""
    return {p.name: p for parameters in groups_of(notebook).values() for p in parameters}


def parameters_cell(notebook: str) -> str:
    """The source of a notebook's parameters cell."""
    groups = groups_of(notebook)
    types = " ".join(p.type for p in parameters_of(notebook).values())
    imports = [name for name in ("Optional", "Union") if name in types]
    lines = ["# Edit the values here, or pass them to papermill with -p NAME VALUE."]
    if imports:
        lines += [f"from typing import {', '.join(imports)}"]
    for heading, parameters in groups.items():
        lines += ["", f"# {heading}"] if len(groups) > 1 else [""]
        lines += [parameter.line for parameter in parameters]
    return "\n".join(lines)


# the check


def assigned_names(cell: str) -> list[str]:
    """The names that a cell assigns to, outside of functions and classes."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return []
    targets = [
        target
        for node in body
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if target is not None
    ]
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def names_given(history: list[str], known: Mapping[str, Parameter]) -> list[str]:
    """The names assigned in the parameters cell that ran last, and in the one that papermill adds to it.

    `history` are the cells that ran in this kernel, in order; empty if a runner keeps none. The
    parameters cell is the last one that assigns at least half of the `known` names.
    """
    for number in range(len(history) - 1, -1, -1):
        names = assigned_names(history[number])
        if 2 * len(known.keys() & names) >= len(known):
            added = [cell for cell in history[number + 1 :] if cell.startswith("# Parameters")]
            return names + [name for cell in added for name in assigned_names(cell)]
    return []


def check_name(name: str, known: Mapping[str, Parameter]) -> None:
    """Raise NotebookError if a parameter is unknown, with the name that was probably meant."""
    if name in known:
        return
    if name in REMOVED:
        raise NotebookError(f"parameter {name!r} was removed ({REMOVED[name]}): delete it")
    meant = [OTHER_NAMES[name]] if OTHER_NAMES.get(name) in known else None
    meant = meant or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {meant[0]!r}?" if meant else f"the parameters are {', '.join(known)}"
    raise NotebookError(f"unknown parameter {name!r}: {advice}")


PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": {"True": True, "False": False}.__getitem__,
}


def parsed(value: Any, type_names: set[str]) -> Any:
    """A number or bool that was given as text ("1e-4" in YAML, or with papermill's -r), as such."""
    if isinstance(value, str) and "str" not in type_names:
        for name, parse in PARSERS.items():
            if name in type_names:
                with contextlib.suppress(ValueError, KeyError):
                    return parse(value)
    return value


def check_value(parameter: Parameter, value: Any) -> None:
    """Raise NotebookError if a value has another type or is not valid."""
    name, names, given = parameter.name, parameter.type_names, type(value).__name__
    if given not in names and not (given == "int" and "float" in names):
        types = join_or(sorted(n.replace("NoneType", "None") for n in names))
        hint = ""
        if "str" in names and given in ("int", "float", "bool"):
            hint = f"; papermill's -p turns it into a number, so pass -r {name} {value}"
        raise NotebookError(
            f"{name} must be of type {types}, got {shown_value(value)!r} of type {given}{hint}"
        )
    if not parameter.valid.check(value):
        raise NotebookError(f"{name} must be {parameter.valid.text}, got {shown_value(value)!r}")


def check_devices(values: Mapping[str, Any]) -> None:
    """Raise NotebookError if GPUs, TPU cores and CPU processes are set together."""
    used = [n for n in ("gpus", "tpu_cores") if str(values.get(n)) not in ("None", "0")]
    used += ["cpu_processes"] if values.get("cpu_processes", 1) > 1 else []
    if len(used) > 1:
        raise NotebookError(f"{' and '.join(used)} contradict each other: set only one of them")


def check_replay(values: Mapping[str, Any]) -> None:
    """Raise NotebookError if parameters about `replay` are set that would have no effect."""
    replay, fraction = values.get("replay"), values.get("replay_fraction")
    if replay is not None and values["model"].startswith("scratch:"):
        raise NotebookError(
            f"replay must be None with model={values['model']!r}, got {shown_value(replay)!r}: a model from "
            'scratch has nothing to forget; to mix texts, pass a list with weights, corpus=["a.txt*2", "b.txt"]'
        )
    default = parameters_of("04_train")["replay_fraction"].default
    if replay is None and fraction not in (None, default):
        raise NotebookError(
            f"replay_fraction={fraction} has no effect without replay: pass replay, the text to mix in, or "
            f"leave replay_fraction at {default}"
        )


def check_parameters(namespace: dict[str, Any], notebook: str) -> dict[str, Any]:
    """Check all parameters of a notebook and print those that differ from their defaults.

    `namespace` are the notebook's globals; a number that was given as text is replaced there. Returns
    {name: value}. Raises NotebookError if a parameter is missing, unknown or not valid.
    """
    known = parameters_of(notebook)
    for name in names_given(namespace.get("In", [])[:-1], known):  # without the cell of this call
        check_name(name, known)
    for name, parameter in known.items():
        if name not in namespace:
            raise NotebookError(
                f"parameter {name!r} is missing: put it back in the first code cell"
            )
        namespace[name] = parsed(namespace[name], parameter.type_names)
        check_value(parameter, namespace[name])
    values = {name: namespace[name] for name in known}
    check_devices(values)
    check_replay(values)
    changed = [
        f"{name} = {shown_value(value)!r} (default {known[name].default!r})"
        for name, value in values.items()
        if value != known[name].default
    ]
    print("Parameters changed from their defaults:", "; ".join(changed) or "none")
    return values


PUBLIC_FORMS: dict[
    str, Callable[[Any], Any]
] = {  # parameters that may name folders or have secrets
    "corpus": public_names,
    "valid_corpus": public_names,
    "general": public_names,
    "replay": public_names,
    "model": stored_model,
    "workdir": public_name,
}


def public_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they are stored in run.json: without secrets and folders of this machine."""
    return {
        name: PUBLIC_FORMS[name](value) if name in PUBLIC_FORMS and value is not None else value
        for name, value in values.items()
    }
