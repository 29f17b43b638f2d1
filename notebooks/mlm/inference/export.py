"""A model handed on: as ONNX, which runs without Python, and by the Hub; only where that is asked for."""

import contextlib
import logging
import warnings
from importlib.util import find_spec

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mlm.env.files import move_into_place, partial_path, write_error
from mlm.env.notebook import NotebookError
from mlm.models.loading import quiet_transformers

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
        with quiet_transformers(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except NotebookError:
        raise
    except OSError as error:
        raise write_error(path, error) from None
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
    part = partial_path(path)
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
            move_into_place(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path, difference


# by the Hub: private, and never waiting without end
