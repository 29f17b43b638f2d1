"""Whether the Hugging Face Hub answers."""

import functools
from pathlib import Path

import huggingface_hub
import requests


@functools.cache
def hub_is_unreachable(name: str) -> bool:
    """Whether `name` is on the Hub, which does not answer: then only its local cache can be read.

    The Hub is contacted once, for at most 10 seconds: its client would retry for minutes.
    """
    if Path(name).is_dir() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        return True
    return False
