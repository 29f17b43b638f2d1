"""A model handed on: as ONNX, which runs without Python, and by the Hub; only where that is asked for."""

import contextlib
import logging
import warnings
from importlib.util import find_spec

import huggingface_hub
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session, validate_repo_id
from transformers import AutoModelForMaskedLM, AutoTokenizer

from .files import cannot_write, part_of, shown, take_name
from .model import quietly
from .notebook import NotebookError

# as ONNX: written whole, and held equal to the model

NEEDED = "onnx", "onnxscript", "onnxruntime"  # torch writes with two of them, the third reads
NEAR = 1e-3  # how far a logit may lie from the model's: other kernels round otherwise


def check_onnx(onnx, trained=True):
    """Raises NotebookError where `onnx` asks for an export, and no run is there or a package is missing."""
    if not onnx:
        return
    if not trained:
        raise NotebookError(
            "onnx=True: no run is there to export the model of; train it with 04_train.ipynb"
        )
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise NotebookError(
            f"onnx=True needs {', '.join(missing)}: pip install {' '.join(missing)}, or leave onnx out"
        )


def batch_of(tokenizer, rows, tokens):
    """`input_ids` and `attention_mask` (rows, tokens), each row a token shorter than the one above."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None]).long()
    return {"input_ids": torch.where(mask > 0, ids, tokenizer.pad_token_id), "attention_mask": mask}


@contextlib.contextmanager
def exporting(path):
    """In this block a model is exported, in silence.

    Raises NotebookError, in one line, where that cannot be done or written.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quietly(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except NotebookError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from None
    except Exception as error:  # torch's, onnxscript's, those of onnxruntime
        reason = " ".join(str(error).split())[:200]
        raise NotebookError(
            f"onnx=True: this kind of model could not be exported ({type(error).__name__}: {reason}); "
            "leave onnx out: the folder model/ is whole"
        ) from None
    finally:
        logging.disable(before)


def logits_of(path, batch):
    """The logits (B, T, V) that ONNX Runtime computes from a file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: ids.numpy() for name, ids in batch.items()})
    return torch.from_numpy(logits)


def export_onnx(folder):
    """Export the model in `folder` to its onnx/model.onnx: (path, greatest difference of a logit).

    The file takes `input_ids` and `attention_mask` (B, T) of any size and gives `logits` (B, T, V); its
    place is where Optimum and transformers.js look. It is compared, on a batch of another size than it
    was made with, before it gets its name. Raises NotebookError where a package is missing, the model
    cannot be exported, or the two differ. https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    check_onnx(True)
    path = folder / "onnx" / "model.onnx"
    part = part_of(path)
    with exporting(path):
        try:
            path.parent.mkdir(exist_ok=True)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            bert = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
            made, tried = batch_of(tokenizer, rows=2, tokens=8), batch_of(tokenizer, 3, 13)
            size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            torch.onnx.export(
                bert,
                kwargs=made,
                f=part,
                dynamo=True,
                dynamic_shapes={name: size for name in made},
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
            real = tried["attention_mask"] > 0  # what stands at padding is nobody's
            difference = (logits_of(part, tried) - bert(**tried).logits)[real].abs().max().item()
            if not difference < NEAR:
                raise NotebookError(
                    f"onnx=True: the exported model's logits differ by {difference:.1g} from those of "
                    f"{folder}: it is not kept; leave onnx out"
                )
            take_name(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path, difference


# by the Hub: private, and never waiting without end

PATIENCE = 30  # seconds without an answer after which a request is given up


def check_upload(upload, trained=True):
    """Raises NotebookError where `upload` is no name on the Hub, or there is no token or no model for it.

    None asks for nothing, and nothing is refused.
    """
    if upload is None:
        return
    if not trained:
        raise NotebookError(
            f"upload={shown(upload)}: no run is there to upload the model of; train it with 04_train.ipynb"
        )
    try:
        validate_repo_id(upload)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise NotebookError(f'upload={shown(upload)}: {reason}; pass "you/name"') from None
    if not huggingface_hub.get_token():
        raise NotebookError(
            f"upload={shown(upload)}: there is no token of the Hub on this machine; run `hf auth login` or "
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
            f"upload={shown(name)}: {refused} ({reason}); the model is whole in {folder}: run this cell "
            "again, or upload it yourself with `hf upload`"
        ) from None
    return str(address)
