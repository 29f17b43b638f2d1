"""Whether a server answers. There is one request: clients would retry for minutes."""

import functools
import time
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


def hub_is_unreachable(name: str) -> bool:
    """Whether a model or dataset is on the Hub, which does not answer: then only its local cache can be read."""
    from huggingface_hub import constants

    if Path(name).is_dir() or constants.HF_HUB_OFFLINE:
        return False
    return endpoint_error(constants.ENDPOINT, minute=int(time.monotonic() // 60)) is not None


@functools.cache
def endpoint_error(url: str, minute: int) -> str | None:
    """`connection_error`, asked once a minute: the network may come back."""
    return connection_error(url)
