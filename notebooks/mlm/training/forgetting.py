"""What a pretrained model forgets: its loss on general text before and after training."""

from typing import Any

import torch

from mlm.data.general import GeneralText
from mlm.models.encoders import supports_packing
from mlm.training.evaluation import evaluate, validation_batches
from mlm.training.lock import is_main_process
from mlm.training.module import MaskedLM


def measure_forgetting(
    module: Any,
    initial_weights: dict[str, torch.Tensor],
    general: GeneralText | None,
    seed: int,
    stored: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Loss, perplexity and accuracy on general text "before" and "after" training, with the same masks.

    module: the LightningModule with the trained weights, on the CPU, where both are computed, in float32;
    it keeps its weights. initial_weights: its state_dict before training. stored: what was measured
    before, returned if it is of the same lines. Returns None if there is no general text, and in all
    processes but the main one.
    """
    if general is None or not is_main_process():
        return None
    if stored and stored["sha256"] == general.about["sha256"]:
        return stored
    pack = supports_packing(module.bert.config)
    batches = list(validation_batches(general.examples, seed, pack))
    plain = MaskedLM(module.bert, {})  # with the same weights; cross-entropy, whatever was edited
    plain.train(module.training)  # the mode that evaluate restores
    trained = {name: weight.clone() for name, weight in module.state_dict().items()}
    with torch.compiler.set_stance("force_eager"):  # layers may be compiled for a GPU
        after = evaluate(plain, batches)
        try:
            module.load_state_dict(initial_weights)
            before = evaluate(plain, batches)
        finally:  # also after an interrupt
            module.load_state_dict(trained)
    return {
        "text": general.about["source"],
        "sha256": general.about["sha256"],
        "lines": len(general.examples),
        "masked_tokens": sum(int((batch["labels"] != -100).sum()) for batch in batches),
        "new_head": getattr(module.bert, "head_was_missing", False),
        "before": before,
        "after": after,
    }


def describe_forgetting(measured: dict[str, Any] | None) -> str:
    """The result of `measure_forgetting` in one or two sentences."""
    if measured is None:
        return "Forgetting was not measured"
    before, after = (measured[when]["loss"] for when in ("before", "after"))
    change = f"{'rose' if after > before else 'fell'} by {abs(after - before):.2f} nats"
    text = (
        f"On {measured['lines']:,} lines of {measured['text']} that are not in the training text "
        f"({measured['masked_tokens']:,} masked tokens), the loss {change}, from {before:.2f} to {after:.2f}"
    )
    if measured["new_head"]:
        text += (
            ". The MLM head was new, and before training it could not predict anything: compare the "
            "second loss with the one of another run, for example with replay"
        )
    return text
