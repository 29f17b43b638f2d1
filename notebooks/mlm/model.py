"""A BERT with its masked-LM head: from the Hub, from a folder, or with random weights."""

import contextlib

import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from .hub import cannot_load, hub_is_away, model_source
from .notebook import NotebookError

SIZES = {  # hidden size, layers (Turc et al. 2019, arXiv:1908.08962; base: Devlin et al. 2018)
    "tiny": (128, 2),
    "mini": (256, 4),
    "small": (512, 4),
    "base": (768, 12),
}


@contextlib.contextmanager
def quietly():
    """No progress bars and reports of transformers in this block: what they say is looked at."""
    shown = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def load_bert(model, tokenizer, max_len=128, dropout=None, seed=0):
    """A BertForMaskedLM: pretrained (a Hub name or a folder), or "scratch:" with random weights.

    `dropout=None` keeps the model's own (0.1 in BERT). What is random comes from `seed`. Its
    `head_was_missing` says whether a pretrained one brought its encoder alone.
    Raises NotebookError where there is no such BERT, where it does not fit tokenizer and `max_len`,
    or where its weights are not all there, not finite or not tied.
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
            initializer_range=0.02 * (768 / hidden) ** 0.5,  # 0.02 is for BERT-base's width
        )
    else:
        source = model_source(model)
        try:
            config = BertConfig.from_pretrained(source, local_files_only=hub_is_away(source))
        except Exception as error:
            raise cannot_load(model, error) from None
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
        bert = BertForMaskedLM._from_config(config, attn_implementation="sdpa")
        bert.head_was_missing = False
        return bert
    try:
        with quietly():
            bert, found = BertForMaskedLM.from_pretrained(
                source, config=config, attn_implementation="sdpa", dtype=torch.float32,
                local_files_only=hub_is_away(source), output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise cannot_load(model, error) from None
    check_weights(model, bert, found["missing_keys"])
    bert.head_was_missing = bool(found["missing_keys"])
    return bert


def check_weights(model, bert, missing):
    """Refuse a pretrained BERT that would train as something else than it is; a new head is only said.

    `missing` are the names of the weights that its files do not have. Raises NotebookError.
    """
    encoder = {name for name in bert.state_dict() if name.startswith("bert.")}
    if lost := encoder & set(missing):
        raise NotebookError(
            f"model={model!r}: {len(lost)} of the encoder's {len(encoder)} weights are not in its files "
            f"under BERT's names ({min(lost)}, ...) and would be random; save it anew with "
            "save_pretrained, or pass another BERT"
        )
    if bert.get_output_embeddings().weight is not bert.get_input_embeddings().weight:
        raise NotebookError(
            f"model={model!r} is untied: its decoder is another matrix than its word embeddings, where "
            "BERT's are one, and saved.bin and model/ keep one; pass a BERT whose are tied"
        )
    for name, weight in bert.named_parameters():
        if not weight.isfinite().all():
            raise NotebookError(
                f"model={model!r}: its weight {name} is not finite (NaN or infinity), so nothing can be "
                "learned from it; copy or download the model again, or pass another"
            )
    if missing:
        print(f"{model!r} is an encoder without a masked-LM head: that one starts anew")
