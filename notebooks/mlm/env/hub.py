"""What the parameter `model` refers to: a folder, or a masked language model on the Hugging Face Hub.

Code that comes with a model is never executed.
"""

import contextlib
import functools
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import requests
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mlm.env.files import absolute_path, describe_path, short_repr
from mlm.env.model_folder import check_model_folder, missing_model_type
from mlm.env.notebook import NotebookError

MASKED_LMS = {  # model types with a masked language model, without sequence-to-sequence models
    model_type
    for model_type, name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.items()
    if not name.endswith("ForConditionalGeneration")
}
HUB_NAME = re.compile(r"(\w[\w.-]{,95}/)?\w[\w.-]{,95}", re.ASCII)


@functools.cache
def hub_is_unreachable(model: str) -> bool:
    """Whether `model` is on the Hub, which does not answer: then only its local cache can be read.

    The Hub is contacted once, for at most 10 seconds: its client would retry for minutes.
    """
    if Path(model).is_dir() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        return True
    return False


def load_error(
    model: str, error: Exception | str, what: str = " cannot be loaded"
) -> NotebookError:
    """The NotebookError for a model that is missing or incomplete."""
    reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
    return NotebookError(
        f"model={short_repr(model)}{what} ({reason}); pass the name of a masked language "
        'model on the Hub, a folder that save_pretrained wrote, or (no network) "scratch:tiny"'
    )


def model_source(model: str) -> str:
    """What `from_pretrained` reads for a `model`: an absolute folder, or a name on the Hub.

    Raises NotebookError if `model` is neither, is the folder of a run, or is another kind of model.
    """
    path = absolute_path("model", model)
    if describe_path(path) == "is a folder":
        source = str(path)
        check_model_folder(model, path, MASKED_LMS)
    elif HUB_NAME.fullmatch(model) and not path.exists():
        source = model
    elif path.is_file() and (path.parent / "config.json").exists():
        raise NotebookError(
            f"model={short_repr(model)} is a file; pass the folder that contains it, {path.parent}"
        )
    else:
        raise load_error(model, f"{path} {describe_path(path)}")
    config: dict[str, Any] = {}
    with contextlib.suppress(
        Exception
    ):  # an unreadable config is reported when the model is loaded
        offline = hub_is_unreachable(source)
        config, _ = PretrainedConfig.get_config_dict(source, local_files_only=offline)
    model_type = config.get("model_type")
    if config and (reason := missing_model_type(config, MASKED_LMS)):
        copy = "" if path.is_dir() else f" in a copy (hf download {model} --local-dir FOLDER)"
        raise NotebookError(f"model={short_repr(model)} {reason}{copy}")
    if config and model_type not in MASKED_LMS:
        raise NotebookError(
            f"model={short_repr(model)} has the type {model_type!r}, for which transformers has no masked "
            "language model; pass one such as BERT, RoBERTa or ModernBERT"
        )
    return source
