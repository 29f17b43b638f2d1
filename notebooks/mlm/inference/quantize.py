"""An ONNX model with weights of 8 bits, and what that costs in accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mlm.env.files import move_into_place, partial_path
from mlm.inference.export import export_errors, onnx_session
from mlm.inference.validation_set import find_corpus, load_split
from mlm.training.evaluation import VALIDATION_MLM_PROBABILITY, validation_batches

MEASURED_TOKENS = 3000  # masked validation tokens that are compared, if there are more
ACCEPTED_LOSS = 0.005  # of accuracy


def quantize_onnx(path: Path, quantized: Path) -> Path:
    """Write the ONNX model `path` with weights of 8 bits to `quantized`; returns its path.

    Each column of a weight matrix has its own scale, and each table of embeddings one. The inputs of a matrix
    product are rounded to 8 bits as well, with a scale chosen for each sentence (*dynamic* quantization).
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    part = partial_path(quantized)
    with export_errors(quantized, "page"):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        try:
            quantized.parent.mkdir(exist_ok=True)
            quantize_dynamic(path, part, per_channel=True, weight_type=QuantType.QInt8)
            move_into_place(part, quantized)
        finally:
            part.unlink(missing_ok=True)
    return quantized


def masked_rows(
    tokenizer: PreTrainedTokenizerBase, results: dict[str, Any], corpus: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Validation examples of a run as (input_ids, labels), both (1, T), without padding.

    All of them, or evenly spread ones with about MEASURED_TOKENS masked tokens.
    """
    valid = load_split(corpus, "valid", tokenizer, results)
    batches = validation_batches(valid, results["parameters"]["seed"], pack=False)
    keys = list(batches.keys)
    times_too_many = int(valid.lengths.sum()) * VALIDATION_MLM_PROBABILITY / MEASURED_TOKENS
    batches.keys = keys[:: min(len(keys), max(1, round(times_too_many)))]
    for batch in batches:
        ids, labels = batch["input_ids"], batch["labels"]  # (B, T)
        real = batch.get("sequence_ids", torch.ones_like(ids)) > 0
        for row in torch.nonzero((labels != -100).any(1)).flatten():
            yield ids[row, real[row]][None].numpy(), labels[row, real[row]][None].numpy()


def most_likely_tokens(path: Path, rows: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The most likely token id for each masked token of these rows in an ONNX model, (masked tokens,)."""
    session = onnx_session(path)
    predictions = []
    for ids, labels in rows:  # one at a time: the logits of a batch could exceed the memory
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (logits,) = session.run(["logits"], inputs)  # (1, T, V)
        predictions.append(logits[labels != -100].argmax(-1))
    return np.concatenate(predictions)


def describe_quantization(
    path: Path,
    quantized: Path,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> str:
    """Sizes of an ONNX model and its quantized copy, and their accuracy on the same masked tokens.

    The tokens are from the validation set of the run, with its masks. If its corpus is not in `workdir`,
    the text says that the accuracy is not known.
    """
    sizes = [file.stat().st_size for file in (path, quantized)]
    text = (
        f"weights of 8 bits: {sizes[0] / 1e6:,.1f} MB become {sizes[1] / 1e6:,.1f} MB "
        f"({sizes[1] / sizes[0]:.1%})"
    )
    corpus = find_corpus(results, workdir)
    if corpus is None:
        return f"{text}; what they cost in accuracy is not measured"
    rows = list(masked_rows(tokenizer, results, corpus))
    if not rows:
        return f"{text}; no token of the validation set is masked, so the accuracy is not measured"
    answers = np.concatenate([labels[labels != -100] for _, labels in rows])
    predictions = [most_likely_tokens(file, rows) for file in (path, quantized)]
    before, after = (float((each == answers).mean()) for each in predictions)
    text += (
        f"\naccuracy on {len(answers):,} masked validation tokens: {before:.2%} with 32 bits, "
        f"{after:.2%} with 8 bits ({100 * (after - before):+.2f} points); the most likely token is "
        f"the same for {(predictions[0] == predictions[1]).mean():.1%} of them"
    )
    if before - after > ACCEPTED_LOSS:
        text += f"\nThis loses more than {100 * ACCEPTED_LOSS} points: the page is worse than the model."
    return text
