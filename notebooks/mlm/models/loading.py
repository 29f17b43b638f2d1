"""A masked language model, BERT or another: from the Hub, from a folder, or with random weights."""

import contextlib

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertConfig
from transformers.utils import logging as transformers_logging

from mlm.env.hub import hub_is_away, load_error, model_source
from mlm.env.notebook import NotebookError
from mlm.models.encoders import max_positions, supports_packing
from mlm.models.sizes import SIZES

DROPOUTS = (  # what configs call it
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


@contextlib.contextmanager
def quiet_transformers():
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


def load_config(model):
    """The config of a pretrained model; raises NotebookError where there is no such model."""
    source = model_source(model)
    try:
        return AutoConfig.from_pretrained(
            source, local_files_only=hub_is_away(source), trust_remote_code=False
        )
    except Exception as error:
        raise load_error(model, error) from None


def choose_packing(model):
    """Whether examples may share a row of `model`; a line says so where they may not."""
    if model.startswith("scratch:") or supports_packing(config := load_config(model)):
        return True
    print(f"{model!r} is a {config.model_type!r} model: each example has a row of its own")
    return False


def load_model(model, tokenizer, max_len=128, dropout=None, seed=0):
    """A masked language model: pretrained (a Hub name or a folder), or "scratch:", a random BERT.

    `dropout=None` keeps the model's own (0.1 in BERT). What is random comes from `seed`. Its
    `head_was_missing` says whether a pretrained one brought its encoder alone.
    Raises NotebookError where there is no such model, where it does not fit tokenizer and `max_len`,
    or where its weights are not all there or not finite.
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
        config = load_config(model)
    if config.vocab_size < len(tokenizer):
        raise NotebookError(
            f"model={model!r} knows {config.vocab_size} tokens, its tokenizer makes {len(tokenizer)}: "
            "they do not belong together; pass a folder where both come from one model"
        )
    if max_positions(config) < max_len:
        raise NotebookError(
            f"max_len={max_len}: {model!r} has {max_positions(config)} positions; pass max_len at or "
            "below that"
        )
    if dropout is not None:
        config.update({name: dropout for name in DROPOUTS if hasattr(config, name)})
    config.tie_word_embeddings = True  # unless the two matrices that are found differ
    torch.manual_seed(seed)
    if model.startswith("scratch:"):
        bert = AutoModelForMaskedLM.from_config(config)
        bert.head_was_missing = False
        return bert
    source = model_source(model)
    try:
        with quiet_transformers():
            bert, found = AutoModelForMaskedLM.from_pretrained(
                source, config=config, dtype=torch.float32, trust_remote_code=False,
                local_files_only=hub_is_away(source), output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise load_error(model, error) from None
    check_weights(model, bert, found["missing_keys"])
    bert.head_was_missing = bool(found["missing_keys"])
    if bert.get_output_embeddings().weight is not bert.get_input_embeddings().weight:
        keep_untied(bert)
    return bert


def keep_untied(bert):
    """Let a model that was loaded with two matrices for its words stay so wherever it is saved.

    The bias that its config would have tied is not read: DDP wants a gradient of all that is trained.
    """
    bert.config.tie_word_embeddings = False
    for name, same in (bert._tied_weights_keys or {}).items():
        if bert.get_parameter(name) is not bert.get_parameter(same) and name.endswith("bias"):
            bert.get_parameter(same).requires_grad_(False)


def check_weights(model, bert, missing):
    """Refuse a pretrained model that would train as something else than it is; a new head is only said.

    `missing` are the names of the weights that its files do not have. Raises NotebookError.
    """
    prefix = f"{bert.base_model_prefix}."
    encoder = {name for name in bert.state_dict() if name.startswith(prefix)}
    if lost := encoder & set(missing):
        raise NotebookError(
            f"model={model!r}: {len(lost)} of the encoder's {len(encoder)} weights are not in its files "
            f"under its names ({min(lost)}, ...) and would be random; save it anew with "
            "save_pretrained, or pass another"
        )
    for name, weight in bert.named_parameters():
        if not weight.isfinite().all():
            raise NotebookError(
                f"model={model!r}: its weight {name} is not finite (NaN or infinity), so nothing can be "
                "learned from it; copy or download the model again, or pass another"
            )
    if missing:
        print(f"{model!r} is an encoder without a masked-LM head: that one starts anew")
