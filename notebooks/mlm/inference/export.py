"""Export a model as ONNX, which runs without PyTorch, and verify the exported file."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from mlm.env.files import move_into_place, partial_path, write_error
from mlm.env.notebook import NotebookError
from mlm.models.loading import quiet_transformers

REQUIRED_PACKAGES = "onnx", "onnxscript", "onnxruntime"  # two to export, the third to verify
TOLERANCE = 1e-3  # largest accepted difference of a logit: ONNX Runtime's kernels round differently


def check_onnx(requested: bool, trained: bool = True, parameter: str = "onnx") -> None:
    """Raises NotebookError if an export is requested but there is no run, or a package is missing.

    `parameter`: the parameter that requests it.
    """
    if not requested:
        return
    if not trained:
        raise NotebookError(
            f"{parameter}=True: there is no run to export; train one with 04_train.ipynb"
        )
    if missing := [name for name in REQUIRED_PACKAGES if not find_spec(name)]:
        names = " ".join(missing)
        raise NotebookError(
            f"{parameter}=True requires {', '.join(missing)}: pip install {names}, or leave {parameter} out"
        )


def example_batch(
    tokenizer: PreTrainedTokenizerBase, rows: int, tokens: int
) -> dict[str, torch.Tensor]:
    """Random `input_ids` and their `attention_mask` (rows, tokens); each row has one token less."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None]).long()
    return {"input_ids": torch.where(mask > 0, ids, tokenizer.pad_token_id), "attention_mask": mask}


@contextlib.contextmanager
def export_errors(path: Path, parameter: str) -> Iterator[None]:
    """Context manager for an export to `path`: no warnings or logs, errors become NotebookErrors.

    `parameter`: the parameter that requests the export.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_transformers(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except NotebookError:
        raise
    except OSError as error:
        raise write_error(path, error) from None
    except Exception as error:  # torch, onnxscript and onnxruntime raise many types
        reason = " ".join(str(error).split())[:200]
        raise NotebookError(
            f"{parameter}=True: this kind of model could not be exported ({type(error).__name__}: "
            f"{reason}); leave {parameter} out: the folder model/ is complete without it"
        ) from None
    finally:
        logging.disable(disabled)


def clear_metadata(path: Path) -> None:
    """Remove from an ONNX file what the exporter notes for debugging: source lines with their folders."""
    import onnx_ir  # onnxscript requires it
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    model = onnx_ir.load(path)
    ClearMetadataAndDocStringPass()(model)
    onnx_ir.save(model, path)


def onnx_session(path: Path) -> Any:
    """An ONNX model in ONNX Runtime, on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def onnx_logits(path: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits (B, T, V) that ONNX Runtime computes from a file on the CPU."""
    session = onnx_session(path)
    (logits,) = session.run(["logits"], {name: ids.numpy() for name, ids in batch.items()})
    return torch.from_numpy(logits)


def export_onnx(folder: Path, parameter: str = "onnx") -> tuple[Path, float]:
    """Export the model in `folder` to onnx/model.onnx: (its path, largest difference of a logit).

    The file takes `input_ids` and `attention_mask` (B, T) of any size and returns `logits` (B, T, V);
    Optimum and transformers.js look for it under this name. Before it gets its name it is compared with
    the model, on a batch of another size than it was exported with. `parameter`: which one requests the
    export. Raises NotebookError if a package is missing, the export fails or the logits differ.
    https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    check_onnx(True, parameter=parameter)
    path = folder / "onnx" / "model.onnx"
    part = partial_path(path)
    with export_errors(path, parameter):
        try:
            path.parent.mkdir(exist_ok=True)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
            export_batch = example_batch(tokenizer, rows=2, tokens=8)
            any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            torch.onnx.export(
                model,
                kwargs=export_batch,
                f=part,
                dynamo=True,
                dynamic_shapes={name: any_size for name in export_batch},
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
            clear_metadata(part)
            test_batch = example_batch(tokenizer, rows=3, tokens=13)
            real = test_batch["attention_mask"] > 0  # logits at padding are arbitrary
            differences = onnx_logits(part, test_batch) - model(**test_batch).logits
            largest = differences[real].abs().max().item()
            if not largest < TOLERANCE:
                raise NotebookError(
                    f"{parameter}=True: the logits of the exported model differ by {largest:.1g} from the "
                    f"model in {folder}: the file is not kept; leave {parameter} out"
                )
            move_into_place(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path, largest
