"""Upload a model to the Hugging Face Hub, privately, only when asked."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http, validate_repo_id

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

TIMEOUT = 30  # seconds to wait for an answer of the Hub
# hidden files, as macOS and Jupyter add them, and what a killed process did not finish (`partial_path`)
NOT_UPLOADED = [".*", "*/.*", "*.part"]


def check_upload(upload: str | None, trained: bool = True) -> None:
    """Raises NotebookError if `upload` is not a valid name, or there is no token or no trained model.

    None means no upload and is always valid.
    """
    if upload is None:
        return
    shown = short_repr(upload)
    if not trained:
        raise NotebookError(
            f"upload={shown}: there is no run to upload; train one with 04_train.ipynb"
        )
    try:
        validate_repo_id(upload)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise NotebookError(f'upload={shown}: {reason}; pass "you/name"') from None
    if not huggingface_hub.get_token():
        raise NotebookError(
            f"upload={shown}: this machine has no token for the Hub; run `hf auth login`, set HF_TOKEN to "
            "a token with write access, or leave upload out"
        )


@contextlib.contextmanager
def hub_timeout() -> Iterator[None]:
    """Context manager that gives all requests to the Hub a timeout; the client itself has none.

    huggingface_hub makes a new client when a connection is refused, so each new one gets it. Xet transfers,
    which do not go through that client, are off.
    """
    before, xet_before = _http._GLOBAL_CLIENT_FACTORY, constants.HF_HUB_DISABLE_XET

    def make_client() -> Any:
        client = before()
        client.timeout = TIMEOUT
        return client

    huggingface_hub.set_client_factory(make_client)
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(before)
        constants.HF_HUB_DISABLE_XET = xet_before


def upload_model(folder: Path, name: str) -> str:
    """Upload the folder of a model to the Hub as `name`, "you/name"; returns its URL.

    A new repository is private; an existing one keeps its visibility. Raises NotebookError if there is
    no token, or if the Hub refuses the upload or does not answer.
    """
    check_upload(name)
    try:
        with hub_timeout():
            url = HfApi().create_repo(name, private=True, exist_ok=True)
            HfApi().upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message="Upload a model",
                ignore_patterns=NOT_UPLOADED,
            )
    except Exception as error:  # from the Hub, its client, or the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        problem = "the token has no write access" if status in (401, 403) else "the upload failed"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise NotebookError(
            f"upload={short_repr(name)}: {problem} ({reason}); the model in {folder} is complete: run "
            "this cell again, or upload the folder with `hf upload`"
        ) from None
    return str(url)
