"""Upload a model to the Hugging Face Hub, privately, only when asked."""

import contextlib

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session, validate_repo_id

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

PATIENCE = 30  # seconds without an answer after which a request is given up


def check_upload(upload, trained=True):
    """Raises NotebookError where `upload` is no name on the Hub, or there is no token or no model for it.

    None asks for nothing, and nothing is refused.
    """
    if upload is None:
        return
    if not trained:
        raise NotebookError(
            f"upload={short_repr(upload)}: no run is there to upload the model of; train it with 04_train.ipynb"
        )
    try:
        validate_repo_id(upload)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise NotebookError(f'upload={short_repr(upload)}: {reason}; pass "you/name"') from None
    if not huggingface_hub.get_token():
        raise NotebookError(
            f"upload={short_repr(upload)}: there is no token of the Hub on this machine; run `hf auth login` or "
            "set HF_TOKEN to one that may write, or leave upload out"
        )


@contextlib.contextmanager
def impatient():
    """In this block the Hub's client gives up where it would wait for ever; all goes through that client."""
    session = get_session()
    before = session.timeout, constants.HF_HUB_DISABLE_XET
    session.timeout, constants.HF_HUB_DISABLE_XET = PATIENCE, True
    try:
        yield
    finally:
        session.timeout, constants.HF_HUB_DISABLE_XET = before


def upload_model(folder, name):
    """Upload a model's folder to the Hub as `name`, "you/name"; its address there.

    The repository is made private; one that is there stays as it is, public or not. Raises
    NotebookError, in one line, where there is no token, or the Hub refuses or does not answer.
    """
    check_upload(name)
    try:
        with impatient():
            address = HfApi().create_repo(name, private=True, exist_ok=True)
            HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model")
    except Exception as error:  # the Hub's, those of its client, the disk's
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = "the token may not write there" if status in (401, 403) else "it failed"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise NotebookError(
            f"upload={short_repr(name)}: {refused} ({reason}); the model is whole in {folder}: run this cell "
            "again, or upload it yourself with `hf upload`"
        ) from None
    return str(address)
