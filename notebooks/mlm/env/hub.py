"""What `model` names: a folder, or a masked language model on the Hub. Its own code is never run."""

import contextlib
import functools
import re
from pathlib import Path

import huggingface_hub
import requests
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mlm.env.files import absolute_path, describe_path, short_repr
from mlm.env.notebook import NotebookError

MASKED_LMS = {  # kinds of models that fill in words, and write no text
    kind
    for kind, name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.items()
    if not name.endswith("ForConditionalGeneration")
}
HUB_NAME = re.compile(r"(\w[\w.-]{,95}/)?\w[\w.-]{,95}", re.ASCII)


@functools.cache
def hub_is_away(model):
    """Whether `model` is on a Hub that does not answer: then only what was downloaded before is there.

    Asked once, with patience for 10 seconds: the Hub's own client would try for minutes.
    """
    if Path(model).is_dir() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        return True
    return False


def load_error(model, error, what=" cannot be loaded"):
    """The NotebookError for a model that is not there or not whole."""
    reason = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
    return NotebookError(
        f"model={short_repr(model)}{what} ({reason}); pass the name of a masked language "
        'model on the Hub, a folder that save_pretrained wrote, or (no network) "scratch:tiny"'
    )


def model_source(model):
    """What `from_pretrained` is to read for a `model`: an absolute folder, or a name on the Hub.

    Raises NotebookError where it can be neither, is a run's folder, or is no masked language model.
    """
    path = absolute_path("model", model)
    if describe_path(path) == "is a folder":
        source, inside = str(path), path / "model"
        if inside.is_dir() and not (path / "config.json").exists():
            raise NotebookError(
                f"model={short_repr(model)} is the folder of a run, not of a model; pass {inside}"
            )
    elif HUB_NAME.fullmatch(model) and not path.exists():
        source = model
    else:
        raise load_error(model, f"{path} {describe_path(path)}")
    about = {}
    with contextlib.suppress(Exception):  # what cannot be read is said by whoever needs it
        about, _ = PretrainedConfig.get_config_dict(source, local_files_only=hub_is_away(source))
    if about and about.get("model_type") not in MASKED_LMS:
        raise NotebookError(
            f"model={short_repr(model)} is a {about.get('model_type')!r} model, of which transformers knows "
            "no masked language model; pass one such as BERT, RoBERTa or ModernBERT"
        )
    return source
