"""What the parameter `model` refers to: a folder, or a masked language model on the Hugging Face Hub.

Code that comes with a model is never executed.
"""

import contextlib
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mlm.env.files import absolute_path, describe_path, short_repr
from mlm.env.model_folder import check_config_folder, check_model_folder, missing_model_type
from mlm.env.names import HUB_NAME
from mlm.env.network import hub_is_unreachable
from mlm.env.notebook import NotebookError, installed_version
from mlm.env.scratch import scratch_source
from mlm.env.secrets import hide_secrets

MASKED_LMS = {  # model types with a masked language model, without sequence-to-sequence models
    model_type
    for model_type, name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.items()
    if not name.endswith("ForConditionalGeneration")
}


# what an ImportError of transformers names, in lower case: how to install it
INSTALL = {
    "fugashi": "pip install fugashi",
    "ipadic": "pip install ipadic",
    "unidic_lite": "pip install unidic-lite",
    "unidic": "pip install unidic && python -m unidic download",
    "sudachi": "pip install sudachipy sudachidict-core",
    "rhoknp": "pip install rhoknp",
    "rjieba": "pip install rjieba",
    "sacremoses": "pip install sacremoses",
    "sentencepiece": "pip install sentencepiece",
    "tiktoken": "pip install sentencepiece",  # transformers tries tiktoken if that is missing
}


def install_command(error: Exception | str) -> str | None:
    """The command that installs the package that transformers misses, if that is the error."""
    message = str(error).lower()
    wants_tiktoken = message.startswith("`tiktoken` is required")
    misses_sentencepiece = wants_tiktoken and installed_version("sentencepiece") is None
    if not isinstance(error, ImportError) and not misses_sentencepiece:
        return None
    return next((command for name, command in INSTALL.items() if name in message), None)


def load_error(
    model: str, error: Exception | str, what: str = " cannot be loaded"
) -> NotebookError:
    """The NotebookError for a model that is missing or incomplete, or for a missing package."""
    if command := install_command(error):
        return NotebookError(
            f"model={short_repr(model)}: its tokenizer needs a package that is not installed: run "
            f"`{command}`, then restart the kernel"
        )
    first_line = str(error).strip().partition("\n")[0].partition(". ")[0]
    reason = hide_secrets(first_line)[:200]
    return NotebookError(
        f"model={short_repr(model)}{what} ({reason}); pass the name of a masked language "
        'model on the Hub, a folder that save_pretrained wrote, or (no network) "scratch:tiny"'
    )


def model_source(model: str, needs_weights: bool = True) -> str:
    """What `from_pretrained` reads for a `model`: an absolute folder, or a name on the Hub.

    Of "scratch:SOURCE", that is the source, whose folder needs only config.json. Raises NotebookError if
    `model` is neither, is the folder of a run, is another kind of model, or if the folder is incomplete.
    needs_weights=False: a folder with only a tokenizer is enough.
    """
    name = scratch_source(model) or model
    path = absolute_path("model", name)
    if describe_path(path) == "is a folder":
        source = str(path)
        if name == model:
            check_model_folder(model, path, MASKED_LMS, needs_weights)
        else:
            check_config_folder(model, path)
    elif HUB_NAME.fullmatch(name) and not path.exists():
        source = name
    elif path.is_file() and (path.parent / "config.json").exists():
        raise NotebookError(
            f"model={short_repr(model)} is a file; pass the folder that contains it, {path.parent}"
        )
    else:
        raise load_error(model, f"{path} {describe_path(path)}")
    config: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # reported when the model is loaded
        offline = hub_is_unreachable(source)
        config, _ = PretrainedConfig.get_config_dict(source, local_files_only=offline)
    model_type = config.get("model_type")
    if config and (reason := missing_model_type(config, MASKED_LMS)):
        copy = "" if path.is_dir() else f" in a copy (hf download {name} --local-dir FOLDER)"
        raise NotebookError(f"model={short_repr(model)} {reason}{copy}")
    if config and model_type not in MASKED_LMS:
        raise NotebookError(
            f"model={short_repr(model)} has the type {model_type!r}, for which transformers has no masked "
            "language model; pass one such as BERT, RoBERTa or ModernBERT"
        )
    if config:
        check_config_values(model, config)
    return source


def check_config_values(model: str, config: dict[str, Any]) -> None:
    """Raise NotebookError if transformers refuses a value in the config.json of a masked language model."""
    try:
        CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    except Exception as error:  # every kind raises another type
        reason = " ".join(str(error).split())[:200]
        raise NotebookError(
            f"model={short_repr(model)} has a config.json that is not valid ({reason}); copy it again from "
            "where the model comes from, or correct the value"
        ) from None
