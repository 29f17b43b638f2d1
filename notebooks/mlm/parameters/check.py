"""What a parameter of a notebook is, and the check of its value."""

import contextlib
import difflib
import json
import operator
import re
import symtable
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlm.env.notebook import NotebookError
from mlm.env.secrets import shown_value

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
    bounds = {
        "at least": (at_least, operator.ge),
        "above": (above, operator.gt),
        "at most": (at_most, operator.le),
        "below": (below, operator.lt),
    }
    given = {words: (bound, holds) for words, (bound, holds) in bounds.items() if bound is not None}
    text = " and ".join(f"{words} {bound}" for words, (bound, _) in given.items())
    if at_least is not None and at_most is not None:
        text = f"{at_least} to {at_most}"
    return Valid(text, lambda value: all(holds(value, bound) for bound, holds in given.values()))


def either(special: Any, meaning: str, otherwise: Valid) -> Valid:
    """Valid is a special value, which has this meaning, and what is valid `otherwise`."""
    text = f"{otherwise.text}, or {special} ({meaning})"
    return Valid(text, lambda value: value == special or otherwise.check(value))


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook."""

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


P = Parameter
Groups = Mapping[str, list[Parameter]]  # {heading in the parameters cell: parameters}


def by_name(groups: Groups) -> dict[str, Parameter]:
    """{name: Parameter} of a notebook, in the order of its parameters cell."""
    return {p.name: p for parameters in groups.values() for p in parameters}


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

# the check


def assigned_names(cell: str) -> list[str]:
    """The names that a cell assigns to, outside of functions and classes."""
    try:
        symbols = symtable.symtable(cell, "cell", "exec").get_symbols()
    except SyntaxError:
        return []
    return [
        symbol.get_name()
        for symbol in symbols
        if symbol.is_assigned() and not symbol.is_imported() and not symbol.is_namespace()
    ]


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


SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character in UTF-16; none in UTF-8
PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": {"True": True, "False": False}.__getitem__,
    "NoneType": {"None": None}.__getitem__,
}


def parsed(value: Any, type_names: set[str]) -> Any:
    """A number, bool or None that was given as text ("1e-4" or "None" in YAML, or with papermill's -r), as such."""
    if isinstance(value, str) and ("str" not in type_names or value in ("True", "False", "None")):
        for name, parse in PARSERS.items():
            if name in type_names:
                with contextlib.suppress(ValueError, KeyError):
                    return parse(value)
    return value


def has_surrogate(value: Any) -> bool:
    """Whether a text, or a text in a list, contains half of a surrogate pair."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and SURROGATE.search(text) for text in texts)


def check_value(parameter: Parameter, value: Any) -> None:
    """Raise NotebookError if a value has another type or is not valid."""
    name, names, given = parameter.name, parameter.type_names, type(value).__name__
    if given not in names and not (given == "int" and "float" in names):
        types = join_or(sorted(n.replace("NoneType", "None") for n in names))
        hint = ""
        is_number = given in ("int", "float", "bool")
        if "str" in names and is_number and parameter.valid.check(str(value)):
            hint = f"; papermill's -p turns it into a number, so pass -r {name} {value}"
        raise NotebookError(
            f"{name} must be of type {types}, got {shown_value(value)!r} of type {given}{hint}"
        )
    if has_surrogate(value):
        raise NotebookError(
            f"{name} must be text that UTF-8 can encode, got {shown_value(value)!r}, which contains half of a "
            "surrogate pair: write the character itself"
        )
    if not parameter.valid.check(value):
        raise NotebookError(f"{name} must be {parameter.valid.text}, got {shown_value(value)!r}")


def check_devices(values: Mapping[str, Any]) -> None:
    """Raise NotebookError if GPUs, TPU cores and CPU processes are set together."""
    used = [n for n in ("gpus", "tpu_cores") if str(values.get(n)) not in ("None", "0")]
    used += ["cpu_processes"] if values.get("cpu_processes", 1) > 1 else []
    if len(used) > 1:
        raise NotebookError(f"{' and '.join(used)} contradict each other: set only one of them")


def check_replay(values: Mapping[str, Any], default: float) -> None:
    """Raise NotebookError if parameters about `replay` are set that would have no effect.

    default: of replay_fraction.
    """
    replay, fraction = values["replay"], values["replay_fraction"]
    if replay is not None and values["model"].startswith("scratch:"):
        raise NotebookError(
            f"replay must be None with model={values['model']!r}, got {shown_value(replay)!r}: a model from "
            'scratch has nothing to forget; to mix texts, pass a list with weights, corpus=["a.txt*2", "b.txt"]'
        )
    if replay is None and fraction != default:
        raise NotebookError(
            f"replay_fraction={fraction} has no effect without replay: pass replay, the text to mix in, or "
            f"leave replay_fraction at {default}"
        )


def check_parameters(namespace: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """Check all parameters of a notebook and print those that differ from their defaults.

    `namespace` are the notebook's globals; a number that was given as text is replaced there. Returns
    {name: value}. Raises NotebookError if a parameter is missing, unknown or not valid.
    """
    known = by_name(groups)
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
    if "replay" in values:
        check_replay(values, known["replay_fraction"].default)
    changed = [
        f"{name} = {shown_value(value)!r} (default {known[name].default!r})"
        for name, value in values.items()
        if value != known[name].default
    ]
    print("Parameters changed from their defaults:", "; ".join(changed) or "none")
    return values
