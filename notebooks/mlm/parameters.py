"""The settings of the notebooks: name, type, default, meaning and range of each, once.

The parameters cells of the notebooks are written from this table, and `check_parameters` reads it.
"""

import ast
import contextlib
import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlm.env.notebook import NotebookError


@dataclass(frozen=True)
class Parameter:
    """A setting: the numbers of the notebooks that have it, what it is, and what is possible.

    `possible(value)` is asked for values of the right type; `allowed` says the same in words.
    """

    notebooks: str
    name: str
    type: str  # as an annotation that papermill understands
    default: Any
    meaning: str
    allowed: str
    possible: Callable

    @property
    def kinds(self):
        """The names of the Python types that a value may have."""
        names = re.findall(r"\w+", self.type)
        return {"NoneType" if n == "Optional" else n for n in names if n != "Union"}

    @property
    def line(self):
        """Its line in a parameters cell."""
        shown = json.dumps(self.default) if isinstance(self.default, str) else repr(self.default)
        return f"{self.name}: {self.type} = {shown}  # {self.meaning}"


def some_text(value):
    return value.strip() != ""


def is_corpus(value):
    texts = value if isinstance(value, list) else [value]
    return texts != [] and all(isinstance(text, str) and some_text(text) for text in texts)


def is_model(value):
    sizes = ("tiny", "mini", "small", "base")
    return some_text(value) and (not value.startswith("scratch:") or value[8:] in sizes)


def is_run_name(value):
    return value is None or (value != "corpus" and re.fullmatch(r"\w[\w.\-]*", value) is not None)


def are_shares(value):
    return (
        re.fullmatch(r"\d+/\d+/\d+", value) is not None and sum(map(int, value.split("/"))) == 100
    )


MODEL = 'a Hub name, a folder, or "scratch:" and one of tiny, mini, small, base', is_model
TEXTS = (
    '"nietzsche", "pydoc", a file, a folder, a pattern, a URL, hf://datasets/... or hf:NAME:SPLIT'
)
CORPUS = f"{TEXTS}; or a list of such", is_corpus
SEED = "0 to 4294967295", lambda v: 0 <= v < 2**32
RUN_NAME = (
    "letters, digits, '_', '-' and '.', but not 'corpus', where the texts are",
    is_run_name,
)
P = Parameter
# fmt: off
TABLE = [
    P("5", "sentence", "str", "What is done out of [MASK] always takes place beyond good and [MASK].",
      "your own", "a sentence with [MASK] where a word is to be filled in", lambda v: "[MASK]" in v),
    P("5", "top_k", "int", 8, "so many guesses for each [MASK]", "1 to 100", lambda v: 1 <= v <= 100),
    P("5", "run_name", "Optional[str]", None,
      'the folder of a run in workdir; None: "run", if there is one', *RUN_NAME),
    P("5", "upload", "Optional[str]", None, '"you/name": the model goes to the Hub, private, by your token',
      'None (nothing is sent) or "you/name"', lambda v: v is None or v.count("/") == 1),
    P("5", "onnx", "bool", False, "the model also as model/onnx/model.onnx", "True or False", lambda v: True),
    P("2346", "corpus", "Union[str, list]", "nietzsche",
      '"nietzsche", "pydoc" (no network), file, folder, URL, list', *CORPUS),
    P("2346", "column", "str", "text", "where the text stands in .csv, .jsonl and .parquet",
      "the name of a column", some_text),
    P("346", "valid_corpus", "Optional[str]", None,
      "held-out text of your own; None: every tenth run of lines",
      f"None or {TEXTS}", lambda v: v is None or some_text(v)),
    P("346", "model", "str", "bert-base-uncased",
      'a Hub name, a folder, or "scratch:tiny|mini|small|base"', *MODEL),
    P("5", "model", "str", "bert-base-uncased",
      "with nothing trained yet: a Hub name, a folder, or scratch:tiny", *MODEL),
    P("5", "corpus", "Union[str, list]", "nietzsche",
      "for scratch: with nothing trained yet: its vocabulary", *CORPUS),
    P("346", "max_len", "int", 128, "longest example in tokens, [CLS] and [SEP] included",
      "8 to 512, the number of positions BERT has", lambda v: 8 <= v <= 512),
    P("4", "add_words", "int", 0, "so many words of the text get a token of their own; see 03",
      "0 to 20000", lambda v: 0 <= v <= 20000),
    P("34", "examples", "str", "line",
      '"line": each line is one; "block", "stream": lines fill max_len tokens',
      '"line", "block" (of a document) or "stream" (of all of them)',
      lambda v: v in ("line", "block", "stream")),
    P("3", "batch_size", "int", 32, "examples per process and step", "1 to 65536 examples",
      lambda v: 1 <= v <= 65536),
    P("4", "batch_size", "Optional[int]", 32, "examples per process and step; None: as many as suit the device",
      "None (what suits the device) or 1 to 65536 examples", lambda v: v is None or 1 <= v <= 65536),
    P("4", "accumulate", "int", 1, "a step is so many batches, where a larger one fits no memory",
      "1 to 65536 batches", lambda v: 1 <= v <= 65536),
    P("6", "batch_size", "int", 32, "examples per step, where a rung does not have 4",
      "1 to 65536 examples", lambda v: 1 <= v <= 65536),
    P("4", "epochs", "int", 1, "times that every example is seen", "1 to 100000",
      lambda v: 1 <= v <= 100000),
    P("4", "max_steps", "int", -1, "stop after so many optimizer steps; -1: when the epochs are over",
      "-1 (no limit) or 1 and more", lambda v: v == -1 or v >= 1),
    P("4", "recipe", "str", "fast",
      '"fast": chosen for model and batch, see below; "tutorial": that of 2020',
      '"fast" or "tutorial"', lambda v: v in ("fast", "tutorial")),
    P("4", "optimizer", "Optional[str]", None, 'None: the recipe\'s; or "adamw", "muon"',
      'None (the recipe\'s), "adamw" or "muon"', lambda v: v in (None, "adamw", "muon")),
    P("4", "lr", "Optional[float]", None, "peak learning rate; None: the recipe's",
      "None (the recipe's) or above 0, at most 1", lambda v: v is None or 0 < v <= 1),
    P("4", "schedule", "Optional[str]", None,
      'None: the recipe\'s; or "trapezoid", "linear", "constant"',
      'None (the recipe\'s), "trapezoid", "linear" or "constant"',
      lambda v: v in (None, "trapezoid", "linear", "constant")),
    P("4", "dropout", "Optional[float]", None, "None: the recipe's; BERT's own is 0.1",
      "None (the recipe's) or 0 to below 1", lambda v: v is None or 0 <= v < 1),
    P("4", "mlm_probability", "Optional[float]", None,
      "share of the tokens predicted; None: the recipe's",
      "None (the recipe's) or above 0 and below 1", lambda v: v is None or 0 < v < 1),
    P("4", "mlm_probability_end", "Optional[float]", None,
      "the share at the last step; None: the recipe's",
      "None (the recipe's) or above 0 and not above mlm_probability", lambda v: v is None or 0 < v < 1),
    P("34", "masking", "str", "token",
      '"token": one token at a time is hidden; "word": all pieces of a word',
      '"token" or "word"', lambda v: v in ("token", "word")),
    P("4", "replace", "str", "80/10/10",
      "% of those predicted that become [MASK], a random token, or stay",
      'three whole numbers that make 100, such as "80/10/10" or "100/0/0"', are_shares),
    P("4", "weight_decay", "Optional[float]", None,
      "of the weight matrices, not of vectors; None: the recipe's",
      "None (the recipe's) or 0 to below 1", lambda v: v is None or 0 <= v < 1),
    P("4", "clip", "Optional[float]", None,
      "largest norm of the gradient, 0: any; None: the recipe's",
      "None (the recipe's) or 0 and above", lambda v: v is None or 0 <= v < float("inf")),
    P("36", "mlm_probability", "float", 0.15, "share of the tokens that are predicted",
      "above 0 and below 1", lambda v: 0 < v < 1),
    P("14", "gpus", "Optional[int]", None, "None: all there are; 0: none; -1: all, or stop",
      "None (all there are), -1 (all), 0 or a number", lambda v: v is None or v >= -1),
    P("14", "tpu_cores", "Optional[Union[int, str, list]]", None,
      "None: all there are; 0, 1, 8, -1 (all) or [k]",
      "None (all there are), -1 (all), 0, 1, all of them by number, or [k] for one by index",
      lambda v: v is None or re.fullmatch(r"-1|\d+|\[\s*\d+\s*\]", str(v)) is not None),
    P("14", "cpu_processes", "int", 1, "processes on this CPU, to try out what several devices do",
      "1 to 1024", lambda v: 1 <= v <= 1024),
    P("14", "num_nodes", "int", 1, "machines, each started by torchrun or SLURM",
      "1 to 4096 machines", lambda v: 1 <= v <= 4096),
    P("14", "strategy", "str", "auto", 'Lightning\'s; "fsdp" for models that outgrow one GPU (never tried)',
      '"auto", "ddp" or "fsdp"', lambda v: v in ("auto", "ddp", "fsdp")),
    P("14", "precision", "Union[int, str]", "auto",
      '"auto": what is fastest here; or "32", "bf16", "16" (GPU)',
      '"auto", "32", "bf16" or "16"', lambda v: str(v) in ("auto", "32", "bf16", "16")),
    P("4", "compile", "Union[bool, str]", "auto", '"auto": where a run on a GPU is long enough to pay for it',
      '"auto", True or False', lambda v: isinstance(v, bool) or v == "auto"),
    P("6", "precision", "Union[int, str]", "auto",
      '"auto": what the device multiplies fastest; or "32", "bf16"',
      '"auto", "32" or "bf16"', lambda v: str(v) in ("auto", "32", "bf16")),
    P("4", "checkpoint_steps", "int", 500, "save after so many steps ...", "1 or more optimizer steps",
      lambda v: v >= 1),
    P("4", "checkpoint_minutes", "float", 10.0, "... and when so many minutes have passed", "above 0",
      lambda v: v > 0),
    P("4", "keep", "str", "last",
      '"last": the last weights are saved; "best": those of the lowest held-out loss',
      '"last" or "best"', lambda v: v in ("last", "best")),
    P("4", "evaluations", "int", 4, "times that the held-out loss is measured, besides before",
      "1 to 100000", lambda v: 1 <= v <= 100000),
    P("4", "patience", "int", 0, "stop after so many measurements without a lower one; 0: never",
      "0 (never) or 1 and more", lambda v: v >= 0),
    P("346", "seed", "int", 0, "of weights, order, masks and dropout", *SEED),
    P("5", "seed", "int", 0,
      "of the weights of scratch: with nothing trained yet, and of shuffled sentences", *SEED),
    P("2346", "workdir", "str", "bert-mlm", "everything is read and written below this folder",
      "the path of a folder", some_text),
    P("5", "workdir", "str", "bert-mlm", "where 04 wrote the run", "the path of a folder", some_text),
    P("4", "run_name", "str", "run", "the folder of this run in workdir", *RUN_NAME),
    P("4", "resume", "str", "auto", '"auto": go on with an unfinished run; "never": start in a new folder',
      '"auto" or "never"', lambda v: v in ("auto", "never")),
    P("6", "steps", "int", 20, "each rung trains on steps * batch_size lines", "2 to 10000 steps",
      lambda v: 2 <= v <= 10000),
    P("6", "race_epochs", "int", 3, "times that a recipe sees these lines, in the race of recipes",
      "1 to 1000", lambda v: 1 <= v <= 1000),
    P("6", "repeats", "int", 3, "times that everything is measured", "1 to 100",
      lambda v: 1 <= v <= 100),
]
# fmt: on


def parameters_of(notebook):
    """{name: Parameter} of a notebook, "04_train" for example, in the order of its cell."""
    return {p.name: p for p in TABLE if notebook[1] in p.notebooks}


def parameters_cell(notebook):
    """The source of a notebook's parameters cell."""
    rows = parameters_of(notebook).values()
    used = [n for n in ("Optional", "Union") if any(n in p.type for p in rows)]
    head = "# Edit the values here, or pass them to papermill with -p NAME VALUE."
    imports = [f"from typing import {', '.join(used)}", ""] if used else []
    return "\n".join([head, *imports, *(p.line for p in rows)])


# the check


def assigned_names(cell):
    """The names that a cell assigns to, outside of functions and the like."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return []
    targets = [
        t for node in body for t in getattr(node, "targets", [getattr(node, "target", None)])
    ]
    found = [name for target in targets if target is not None for name in ast.walk(target)]
    return [node.id for node in found if isinstance(node, ast.Name)]


def names_given(history, known):
    """The names in the parameters cell that ran last, and in what papermill put after it.

    `history` is what ran in this kernel, cell by cell; empty where a runner keeps none. The
    parameters cell is the one that sets at least half of the `known` names.
    """
    for number in range(len(history) - 1, -1, -1):
        names = assigned_names(history[number])
        if 2 * len(known.keys() & names) >= len(known):
            later = [cell for cell in history[number + 1 :] if cell.startswith("# Parameters")]
            return names + [name for cell in later for name in assigned_names(cell)]
    return []


READERS = {"int": int, "float": float, "bool": {"True": True, "False": False}.__getitem__}


def not_text(value, kinds):
    """What was written as text ("1e-4" in YAML, or after papermill's -r) and is a number, True or False."""
    if isinstance(value, str) and "str" not in kinds:
        for kind, read in READERS.items():
            if kind in kinds:
                with contextlib.suppress(ValueError, KeyError):
                    return read(value)
    return value


def check_value(parameter, value):
    """Raises NotebookError where a value has another type or is impossible."""
    name, kinds = parameter.name, parameter.kinds
    kind = type(value).__name__
    if kind not in kinds and not (kind == "int" and "float" in kinds):
        wanted = " or ".join(sorted(k.replace("NoneType", "None") for k in kinds))
        advice = (
            f"; papermill's -p takes it for a number, so pass -r {name} {value}"
            if "str" in kinds and kind in ("int", "float", "bool")
            else ""
        )
        raise NotebookError(f"{name}={value!r}: expected {wanted}, not {kind}{advice}")
    if not parameter.possible(value):
        raise NotebookError(f"{name}={value!r} is impossible: allowed is {parameter.allowed}")


def check_parameters(namespace, notebook):
    """Refuse parameters that are missing, unknown, of another type or impossible; list what was set.

    `namespace` are the notebook's globals; what was written as text and is none becomes what it is there.
    Returns {name: value}. Raises NotebookError, one line.
    """
    known = parameters_of(notebook)
    given = names_given(namespace.get("In", [])[:-1], known)  # without this very cell
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)
            raise NotebookError(f"unknown parameter {name!r}: did you mean {near[0]!r}?")
    for name, parameter in known.items():
        if name not in namespace:
            raise NotebookError(
                f"parameter {name!r} is missing: put it back in the first code cell"
            )
        namespace[name] = not_text(namespace[name], parameter.kinds)
        check_value(parameter, namespace[name])
    values = {name: namespace[name] for name in known}
    wanted = [n for n in ("gpus", "tpu_cores") if str(values.get(n)) not in ("None", "0")]
    wanted += ["cpu_processes"] if values.get("cpu_processes", 1) > 1 else []
    if len(wanted) > 1:
        raise NotebookError(f"{' and '.join(wanted)} contradict each other: set only one of them")
    changed = [
        f"{name} = {value!r} (default {known[name].default!r})"
        for name, value in values.items()
        if value != known[name].default
    ]
    print(
        "Set for this run:", "; ".join(changed) or "nothing, all parameters are at their defaults"
    )
    return values
