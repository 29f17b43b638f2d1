"""Whether a server answers. There is one request: clients would retry for minutes."""

import functools
from pathlib import Path

SECONDS = 10  # to wait for an answer


def connection_error(url: str) -> str | None:
    """Why a server does not answer at all, as the name of the error; None if it does."""
    import requests

    try:
        requests.head(url, timeout=SECONDS)
    except requests.RequestException as error:
        return type(error).__name__
    return None


@functools.cache
def hub_is_unreachable(name: str) -> bool:
    """Whether a model or dataset is on the Hub, which does not answer: then only its local cache can be read."""
    from huggingface_hub import constants

    if Path(name).is_dir() or constants.HF_HUB_OFFLINE:
        return False
    return connection_error(constants.ENDPOINT) is not None
