"""Generate text: fill in several masks step by step, the most confident predictions first."""

import re
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError
from mlm.inference.predict import encode


@dataclass(frozen=True)
class FillStep:
    """A sentence after one step, and the tokens that this step filled in."""

    line: str  # with the remaining [MASK]
    tokens: list[tuple[str, float]]  # (token, probability), most probable first


def tokens_per_step(num_masks: int, steps: int | None) -> list[int]:
    """The number of masks that each step fills in, as equal as possible; None: one mask per step.

    Raises NotebookError if there is no mask, or `steps` is not a number of at least 1.
    """
    if not num_masks:
        raise NotebookError("the sentence has no [MASK]: put [MASK] where a token is missing")
    if steps is None:
        steps = num_masks
    if type(steps) is not int or steps < 1:
        raise NotebookError(
            f"steps must be at least 1, or None (one mask per step), got {short_repr(steps)}"
        )
    steps = min(steps, num_masks)
    return [num_masks * (i + 1) // steps - num_masks * i // steps for i in range(steps)]


def text_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> torch.Tensor:
    """Which token ids of a model are tokens of text, (vocab_size,) bool: no special tokens, no unused rows."""
    is_text = torch.arange(vocab_size) < len(tokenizer)
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}
    is_text[sorted(special)] = False
    return is_text


def to_line(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> str:
    """The text of token ids (T,), as the tokenizer writes it, with [MASK] for its mask token."""
    names = "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id"
    ends = {getattr(tokenizer, name) for name in names}
    text = tokenizer.decode([i for i in ids.tolist() if i not in ends])
    text = text.replace(tokenizer.mask_token, "[MASK]")
    return re.sub(r"(?<=[\w\],.;:!?])\[MASK\]", " [MASK]", text).strip()


@torch.no_grad()
def fill_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    steps: int | None = None,
) -> list[FillStep]:
    """Fill in every [MASK]: each step keeps the most probable predictions, then predicts again.

    steps=1: all masks at once; None: one mask per step. Returns the sentence before the first step and
    after each step. Special tokens are never filled in. Raises NotebookError if the sentence has no
    [MASK] or is too long, or if the predictions are not finite.
    """
    batch = encode(model, tokenizer, sentence)
    ids = batch["input_ids"]  # (1, T): every step has this shape
    history = [FillStep(to_line(tokenizer, ids[0]), [])]
    num_masks = int((ids == tokenizer.mask_token_id).sum())
    for count in tokens_per_step(num_masks, steps):  # of 4 masks: [1, 1, 1, 1]; [4] if steps=1
        p = model(**{**batch, "input_ids": ids}).logits.softmax(-1)  # (1, T, V)
        is_text = text_tokens(tokenizer, p.shape[-1])  # (V,): 0 for special tokens
        confidence, best = (p * is_text).max(-1)  # (1, T)
        confidence = confidence.where(ids == tokenizer.mask_token_id, -1)  # keep what is known
        kept, positions = confidence.topk(count)  # (1, count)
        if not kept.isfinite().all():
            raise NotebookError("the model's predictions are not finite: its weights are damaged")
        chosen = best.gather(1, positions)
        ids = ids.scatter(1, positions, chosen)
        tokens = tokenizer.convert_ids_to_tokens(chosen[0].tolist())
        history.append(FillStep(to_line(tokenizer, ids[0]), list(zip(tokens, kept[0].tolist()))))
    return history
