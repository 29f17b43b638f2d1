"""How each kind of masked language model is read, and its head asked about some positions only.

A kind that is not in HEADS is read by its own forward pass: scores of all positions, a row an example.
"""

import math

import torch

HEADS = {  # model_type: the layers that make scores of hidden states, in their order
    "albert": ["predictions"],
    "bert": ["cls"],
    "camembert": ["lm_head"],
    "deberta-v2": ["cls"],  # DeBERTa-v3 is one, too
    "distilbert": ["vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"],
    "electra": ["generator_predictions", "generator_lm_head"],
    "modernbert": ["head", "decoder"],
    "roberta": ["lm_head"],
    "xlm-roberta": ["lm_head"],
}
AFTER_PADDING = "camembert", "roberta", "xlm-roberta"  # positions begin after the padding's number


def head_layers(bert):
    """The layers of a model's head, in their order; none where only its own forward pass knows them."""
    if not getattr(bert.config, "legacy", True):  # DeBERTa's newer head reads embeddings as well
        return []
    return [getattr(bert, name) for name in HEADS.get(bert.config.model_type, [])]


def supports_packing(config):
    """Whether examples may share a row of such a model without noticing each other."""
    if config.model_type == "modernbert":
        return hasattr(config, "sliding_window")  # transformers 5.0 takes no mask of pairs
    mixes_neighbours = getattr(config, "conv_kernel_size", 0) > 0  # as the largest DeBERTa-v2 do
    return config.model_type in HEADS and getattr(config, "legacy", True) and not mixes_neighbours


def max_positions(config):
    """The tokens of the longest example that a model has positions for; infinity where any will do."""
    unused = config.pad_token_id + 1 if config.model_type in AFTER_PADDING else 0
    return getattr(config, "max_position_embeddings", math.inf) - unused


def read_deberta(encoder, input_ids, may_look, position_ids):
    """DeBERTa's forward pass takes no mask of pairs, its two parts do."""
    embedded = encoder.embeddings(input_ids, position_ids=position_ids)
    return encoder.encoder(embedded, may_look[:, 0]).last_hidden_state


def local_windows(may_look, config):
    """ModernBERT's two masks: most of its layers look no further than their window."""
    place = torch.arange(may_look.shape[-1], device=may_look.device)
    near = (place[:, None] - place).abs() <= config.sliding_window
    return {"full_attention": may_look, "sliding_attention": may_look & near}


def hidden_states(bert, input_ids, may_look=None, position_ids=None):
    """What the encoder makes of each token, (B, T, H), to be handed to `head_logits`.

    input_ids (B, T); may_look (B, 1, T, T) bool, which token may look at which, None if any may;
    position_ids (B, T), a token's place in its example, None where a row is one.
    """
    kind, encoder = bert.config.model_type, bert.base_model
    if may_look is not None and not supports_packing(
        bert.config
    ):  # what the first token may look at
        may_look, position_ids = may_look[:, 0, 0].long(), None
    if not head_layers(bert):
        return bert(input_ids, attention_mask=may_look).logits
    if kind in AFTER_PADDING:  # else it would count, and a random token may be padding
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        position_ids = position_ids + bert.config.pad_token_id + 1
    if may_look is not None and may_look.ndim == 4:
        if kind == "deberta-v2":
            return read_deberta(encoder, input_ids, may_look, position_ids)
        if kind == "modernbert":
            may_look = local_windows(may_look, bert.config)
    read = encoder(input_ids, attention_mask=may_look, position_ids=position_ids)
    return read.last_hidden_state


def head_logits(bert, hidden):
    """Scores (..., V) of the vocabulary for what `hidden_states` found, (..., H)."""
    for layer in head_layers(bert):
        hidden = layer(hidden)
    return hidden


def packed_attention_mask(sequence_ids):
    """Which token may look at which, (B, 1, T, T) bool: those of its own example; None if any may.

    sequence_ids (B, T) numbers the examples of a row. In 4 dimensions transformers passes it on as
    it is; of a mask in 2 it would read the values, which on a TPU stops everything at each step.
    """
    if sequence_ids is None:
        return None
    return sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :]
