"""A BERT with its masked-LM head: from the Hub, from a folder, or with random weights."""

import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM

from .notebook import NotebookError
from .tokens import hub_is_away

SIZES = {  # hidden size, layers (Turc et al. 2019, arXiv:1908.08962; base: Devlin et al. 2018)
    "tiny": (128, 2),
    "mini": (256, 4),
    "small": (512, 4),
    "base": (768, 12),
}


def cannot_load(model, error):
    """The NotebookError for a model that is not there or not whole."""
    reason = str(error).partition("\n")[0].partition(". ")[0]
    return NotebookError(
        f"model={model!r} cannot be loaded ({reason}); pass the name of a BERT on the Hub, a folder "
        'that save_pretrained wrote, or (no network) "scratch:tiny"'
    )


def load_bert(model, tokenizer, max_len=128, dropout=None, seed=0):
    """A BertForMaskedLM: pretrained (a Hub name or a folder), or "scratch:" with random weights.

    `dropout=None` keeps the model's own (0.1 in BERT). What is random comes from `seed`.
    Raises NotebookError where there is no such BERT, or it does not fit tokenizer and `max_len`.
    """
    if model.startswith("scratch:"):
        hidden, layers = SIZES[model.removeprefix("scratch:")]
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            intermediate_size=4 * hidden,
            pad_token_id=tokenizer.pad_token_id,
        )
    else:
        try:
            config = AutoConfig.from_pretrained(model, local_files_only=hub_is_away(model))
        except Exception as error:
            raise cannot_load(model, error) from None
        if config.model_type != "bert":
            raise NotebookError(
                f"model={model!r} is a {config.model_type!r} model; pass a BERT (model_type 'bert')"
            )
    if config.vocab_size < len(tokenizer):
        raise NotebookError(
            f"model={model!r} knows {config.vocab_size} tokens, its tokenizer makes {len(tokenizer)}: "
            "they do not belong together; pass a folder where both come from one model"
        )
    if config.max_position_embeddings < max_len:
        raise NotebookError(
            f"max_len={max_len}: {model!r} has {config.max_position_embeddings} positions; pass "
            "max_len at or below that"
        )
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    config.tie_word_embeddings = True
    torch.manual_seed(seed)
    if model.startswith("scratch:"):
        return BertForMaskedLM._from_config(config, attn_implementation="sdpa")
    try:
        return BertForMaskedLM.from_pretrained(
            model, config=config, attn_implementation="sdpa", dtype=torch.float32,
            local_files_only=hub_is_away(model),
        )  # fmt: skip
    except Exception as error:
        raise cannot_load(model, error) from None
