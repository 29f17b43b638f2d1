"""What differs between kinds of encoders: the head, the positions, the attention of packed rows.

ENCODERS has one entry for each kind (`config.model_type`). To support another kind, add an entry here
and a small configuration to tests/encoders.py. A kind without an entry works too, only slower: its own
forward pass computes the logits of all positions, and its examples are not packed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mlm.models.long_rows import LONG_ATTENTION, dense_mask, is_long

# The forward passes of encoders: (encoder, input_ids, attention_mask, position_ids) -> (B, T, H).


def default_forward(
    encoder: Any,
    input_ids: torch.Tensor,
    attention_mask: Any,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    """The encoder's own forward pass; transformers accepts a (B, 1, T, T) bool mask unchanged."""
    output = encoder(input_ids, attention_mask=attention_mask, position_ids=position_ids)
    return output.last_hidden_state


def packed_deberta_forward(
    encoder: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
) -> torch.Tensor:
    """DeBERTa for a (B, 1, T, T) mask: its forward pass takes none, but its two parts do."""
    embeddings = encoder.embeddings(input_ids, position_ids=position_ids)
    return encoder.encoder(embeddings, attention_mask[:, 0]).last_hidden_state


def packed_modernbert_forward(
    encoder: Any,
    input_ids: torch.Tensor,
    attention_mask: Any,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    """ModernBERT for a (B, 1, T, T) mask: most of its layers attend only within a local window.

    The attention for long rows applies the window itself. It needs sequence_ids for that, if only of one
    example. Shorter rows have a mask here: without one, they take the encoder's own forward pass.
    """
    if not takes_sequence_ids(encoder, input_ids):
        positions = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
        is_near = (positions[:, None] - positions).abs() <= encoder.config.sliding_window
        local_mask = attention_mask & is_near
    elif attention_mask is None:
        local_mask = torch.zeros_like(input_ids)[:, None, None]
    else:
        local_mask = attention_mask
    masks = {"full_attention": attention_mask, "sliding_attention": local_mask}
    return default_forward(encoder, input_ids, masks, position_ids)


# The table of encoders.


@dataclass(frozen=True)
class Encoder:
    """One kind of encoder, as a masked language model of transformers.

    head_layers: the model's attributes that turn hidden states into logits, in this order.
    positions_after_padding: positions start at `pad_token_id` + 1 (RoBERTa), not at 0.
    packed_forward: the encoder's forward pass for packed rows, with a (B, 1, T, T) bool mask.
    can_pack: whether a model with this config can process packed rows.
    separate_head: whether `head_layers` is the whole head in a model with this config.
    """

    head_layers: tuple[str, ...]
    positions_after_padding: bool = False
    packed_forward: Callable[..., torch.Tensor] = default_forward
    can_pack: Callable[[Any], bool] = lambda config: True
    separate_head: Callable[[Any], bool] = lambda config: True


ROBERTA = Encoder(head_layers=("lm_head",), positions_after_padding=True)

ENCODERS = {  # model_type: Encoder
    "albert": Encoder(head_layers=("predictions",)),
    "bert": Encoder(head_layers=("cls",)),
    "camembert": ROBERTA,
    "deberta-v2": Encoder(  # also DeBERTa-v3
        head_layers=("cls",),
        packed_forward=packed_deberta_forward,
        # The convolution of the largest v2 models mixes neighbouring tokens of different examples.
        can_pack=lambda config: getattr(config, "conv_kernel_size", 0) <= 0,
        # The newer head (legacy=False) reads the embeddings as well.
        separate_head=lambda config: getattr(config, "legacy", True),
    ),
    "distilbert": Encoder(
        head_layers=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")
    ),
    "electra": Encoder(head_layers=("generator_predictions", "generator_lm_head")),
    "modernbert": Encoder(
        head_layers=("head", "decoder"), packed_forward=packed_modernbert_forward
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}


def find_encoder(config: Any) -> Encoder | None:
    """The entry for a model with this config; None if only its own forward pass can be used."""
    encoder = ENCODERS.get(config.model_type)
    return encoder if encoder and encoder.separate_head(config) else None


def supports_packing(config: Any) -> bool:
    """Whether a model with this config can process packed rows: no example affects another."""
    encoder = find_encoder(config)
    return encoder is not None and encoder.can_pack(config)


# What training and prediction call: hidden states for all tokens, logits for some of them.


def packed_attention_mask(sequence_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Which token may attend to which: to the tokens of its own example. (B, 1, T, T) bool.

    For long rows (see `mlm.models.long_rows`), the mask would be too large: sequence_ids as (B, 1, 1, T) int64.

    sequence_ids (B, T) are the numbers of the examples within a row, 0 for padding. None (no packing,
    no padding) gives None: every token may attend to every token. transformers passes a 4-dimensional
    mask on unchanged. It would inspect the values of a 2-dimensional mask, and a TPU would wait for
    them at every step.
    """
    if sequence_ids is None:
        return None
    ids = sequence_ids[:, None, None]
    return ids if is_long(sequence_ids.shape[1]) else dense_mask(ids)


def takes_sequence_ids(model: Any, input_ids: torch.Tensor) -> bool:
    """Whether a model's attention for these rows (B, T) takes sequence_ids as its mask."""
    return is_long(input_ids.shape[1]) and model.config._attn_implementation in LONG_ATTENTION


def padding_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """The (B, T) mask of rows that hold one example each: what the first token may attend to; int64."""
    if attention_mask.dtype == torch.bool:
        return attention_mask[:, 0, 0].long()
    return (attention_mask[:, 0, 0] == attention_mask[:, 0, 0, :1]).long()


def hidden_states(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Final hidden states (B, T, H) of a masked language model, the input of `head_logits`.

    input_ids: (B, T). attention_mask: from `packed_attention_mask`. position_ids: (B, T), the position
    of each token within its example; None if each row is one example.
    A model without an entry in ENCODERS returns its logits (B, T, V) instead.
    """
    encoder = find_encoder(model.config)
    is_packed = attention_mask is not None and supports_packing(model.config)
    if attention_mask is not None and not is_packed:
        # One example per row, so a (B, T) padding mask is enough: what the first token may attend to.
        attention_mask, position_ids = padding_mask(attention_mask), None
    if encoder is None:
        if attention_mask is None:  # XLM would derive a mask from the ids
            attention_mask = torch.ones_like(input_ids)
        return model(input_ids, attention_mask=attention_mask).logits
    if encoder.positions_after_padding:
        # Without position_ids, RoBERTa counts the tokens that are not padding. A random token may be
        # the padding token and would be skipped.
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        position_ids = position_ids + model.config.pad_token_id + 1
    if takes_sequence_ids(model, input_ids):
        is_packed = supports_packing(model.config)
    elif is_packed:
        attention_mask = dense_mask(attention_mask)
    forward = encoder.packed_forward if is_packed else default_forward
    return forward(model.base_model, input_ids, attention_mask, position_ids)


def head_layers(model: Any) -> list[torch.nn.Module]:
    """The layers of a model's head, in order; empty if only its own forward pass can be used."""
    encoder = find_encoder(model.config)
    return [getattr(model, name) for name in encoder.head_layers] if encoder else []


def head_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (..., V) for the hidden states (..., H) of any positions from `hidden_states`."""
    for layer in head_layers(model):
        hidden = layer(hidden)
    return hidden
