"""The settings of a run. Two runs are the same run if all their settings are equal."""

from collections.abc import Mapping
from typing import Any

from mlm.data.tokenization import tokenizer_digest
from mlm.env.names import stored_model
from mlm.env.notebook import NotebookError
from mlm.env.secrets import shown_value
from mlm.models.configs import source_digest
from mlm.parameters.check import by_name
from mlm.parameters.train import PARAMETERS

MAY_DIFFER = (  # parameters of notebook 04 that are not compared; all others are
    # the same weights with less memory
    "gradient_checkpointing",
    # where a run is and when it is saved: no effect on the weights
    "workdir", "run_name", "resume", "checkpoint_steps", "checkpoint_minutes",
    # where metrics are logged, and examples in the model card
    "logger", "widget",
    # compared as corpus_sha256, which includes the validation text and how the text is read
    "corpus", "column", "valid_corpus", "encoding", "documents",
    # compared as replay_sha256, which includes the lines of general that are left out
    "general", "replay",
    # compared as total_steps
    "epochs", "max_steps",
    # compared as device, processes and dtype
    "gpus", "tpu_cores", "cpu_processes", "num_nodes", "precision",
    # compared as the values that the recipe chose
    "recipe",
)  # fmt: skip

READ_LATER = (  # parameters that the training cell reads, or a cell below it: they may change until then
    "run_name", "resume", "checkpoint_steps", "checkpoint_minutes", "logger", "widget",
)  # fmt: skip

CHANGED_CONTENT = {  # settings that are SHA-256 sums: what it means that another value is found
    "corpus_sha256": (
        "the text changed since the checkpoint was written: what corpus or valid_corpus contains, or how "
        "it is read (column, encoding, documents)"
    ),
    "tokenizer_sha256": "the tokenizer changed since the checkpoint was written",
    "config_sha256": "the config.json of model changed since the checkpoint was written",
    "replay_sha256": (
        "the replayed text changed since the checkpoint was written: replay, general, or how they are read "
        "(column, encoding, documents)"
    ),
}

COMPUTED_FROM = {  # settings that are no parameters: the parameters to look at
    "total_steps": "epochs, max_steps",
    "device": "gpus, tpu_cores",
    "processes": "gpus, tpu_cores, cpu_processes, num_nodes",
    "dtype": "precision",
    "vocab_size": "vocabulary, add_words",
}


def check_unchanged(namespace: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Raise NotebookError if parameters were changed after the cells that use them had run.

    namespace: the notebook's globals. used: the parameters that `complete_config` was called with.
    """
    changed = [
        f"{name} was {shown_value(value)!r}, is {shown_value(namespace.get(name))!r}"
        for name, value in used.items()
        if name not in READ_LATER and namespace.get(name) != value
    ]
    if changed:
        raise NotebookError(
            f"the cells above ran with other parameters ({'; '.join(changed)}): run the cell with "
            "check_parameters and all cells below it again, or restore what changed"
        )


def run_settings(
    config: dict[str, Any], about_corpus: dict[str, Any], tokenizer: Any, device: dict[str, Any]
) -> dict[str, Any]:
    """What makes two runs the same run, as a dict of plain values.

    config: the parameters of 04, completed by `complete_config` and `prepare_model`, and "total_steps".
    about_corpus: corpus.json, with "replay" if there is any. device: from `trainer_arguments`. A new
    parameter is compared unless it is added to MAY_DIFFER.
    """
    names = by_name(PARAMETERS).keys() - set(MAY_DIFFER)
    compared = {name: config[name] for name in sorted(names)}
    if digest := source_digest(config["model"]):  # its weights have no folder of their own
        compared["config_sha256"] = digest
    return {
        **compared,
        "model": stored_model(config["model"]),
        "corpus_sha256": about_corpus["sha256"],
        "replay_sha256": (about_corpus.get("replay") or {}).get("sha256"),
        "processes": device["processes"] * config["num_nodes"],
        "total_steps": config["total_steps"],
        "device": device["kind"],
        "dtype": str(device["dtype"]),
        "vocab_size": len(tokenizer),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
    }


def setting_differences(stored: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What differs between the settings of a stored run and new ones, as "lr was 0.01, is 0.1".

    A changed text or tokenizer is said in words. A checkpoint of an earlier version lacks newer settings: they are compared with the default of the
    parameter, unless that is "auto". It may have a setting that no longer exists: its value must be None.
    """
    defaults = {name: parameter.default for name, parameter in by_name(PARAMETERS).items()}
    defaults |= {name: settings.get(name) for name in defaults if defaults[name] == "auto"}
    known = {name: defaults[name] for name in settings.keys() & defaults.keys()} | stored
    known["model"] = stored_model(known["model"])  # earlier versions stored its path
    origin = {name: f" (from {parameters})" for name, parameters in COMPUTED_FROM.items()}
    return [
        CHANGED_CONTENT.get(
            name,
            f"{name} was {known.get(name)!r}, is {settings.get(name)!r}{origin.get(name, '')}",
        )
        for name in sorted(known.keys() | settings.keys())
        if known.get(name) != settings.get(name)
    ]
