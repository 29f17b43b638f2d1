"""Load a masked language model: from the Hub, from a folder, or with random weights."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertConfig
from transformers.utils import logging as transformers_logging

from mlm.env.hub import hub_is_unreachable, load_error, model_source
from mlm.env.notebook import NotebookError
from mlm.models.encoders import max_positions, supports_packing
from mlm.models.sizes import SIZES

DROPOUT_NAMES = (  # how the configs of different models call it
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
def quiet_transformers() -> Iterator[None]:
    """Context manager that hides the progress bars and loading reports of transformers."""
    bars_enabled = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars_enabled:
            transformers_logging.enable_progress_bar()


def load_config(model: str) -> Any:
    """The config of a pretrained model; raises NotebookError if it cannot be loaded."""
    source = model_source(model)
    try:
        return AutoConfig.from_pretrained(
            source, local_files_only=hub_is_unreachable(source), trust_remote_code=False
        )
    except Exception as error:
        raise load_error(model, error) from None


def choose_packing(model: str) -> bool:
    """Whether to pack examples for `model`; prints a line if it does not support packing."""
    if model.startswith("scratch:"):
        return True
    config = load_config(model)
    if not supports_packing(config):
        print(f"no packing: {config.model_type!r} models need one example per row")
    return supports_packing(config)


def load_model(
    model: str, tokenizer: Any, max_len: int = 128, dropout: float | None = None, seed: int = 0
) -> Any:
    """A masked language model: pretrained (a Hub name or a folder), or a random BERT ("scratch:tiny").

    dropout: None keeps the model's own (0.1 in BERT). seed: for all random weights. The attribute
    `head_was_missing` of the result says whether the files contained an encoder without a head.
    Raises NotebookError if the model cannot be loaded, does not match the tokenizer or `max_len`, or has
    missing or non-finite weights.
    """
    is_scratch = model.startswith("scratch:")
    config = scratch_config(model, tokenizer) if is_scratch else load_config(model)
    if config.vocab_size < len(tokenizer):
        raise NotebookError(
            f"model={model!r} has {config.vocab_size} token embeddings, but its tokenizer has "
            f"{len(tokenizer)} tokens: pass a folder in which both come from the same model"
        )
    if max_positions(config) < max_len:
        raise NotebookError(
            f"max_len must be at or below the {max_positions(config)} positions of {model!r}, "
            f"got max_len={max_len}: pass a smaller value"
        )
    if dropout is not None:
        config.update({name: dropout for name in DROPOUT_NAMES if hasattr(config, name)})
    config.tie_word_embeddings = True  # `keep_untied` undoes it if the files have two matrices
    torch.manual_seed(seed)
    if is_scratch:
        masked_lm = AutoModelForMaskedLM.from_config(config)
        masked_lm.head_was_missing = False
        return masked_lm
    source = model_source(model)
    try:
        with quiet_transformers():
            masked_lm, report = AutoModelForMaskedLM.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=hub_is_unreachable(source),
                output_loading_info=True,
            )
    except Exception as error:
        raise load_error(model, error) from None
    check_weights(model, masked_lm, report["missing_keys"])
    masked_lm.head_was_missing = bool(report["missing_keys"])
    decoder, embeddings = masked_lm.get_output_embeddings(), masked_lm.get_input_embeddings()
    if decoder.weight is not embeddings.weight:
        keep_untied(masked_lm)
    return masked_lm


def scratch_config(model: str, tokenizer: Any) -> BertConfig:
    """The config of a BERT of one of the SIZES, "scratch:tiny" for example."""
    hidden, layers = SIZES[model.removeprefix("scratch:")]
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02 * (768 / hidden) ** 0.5,  # BERT-base (hidden size 768) has 0.02
    )


def keep_untied(masked_lm: Any) -> None:
    """Let a model with separate embedding and decoder matrices keep both when it is saved and loaded.

    Such a model also has two biases, of which one is unused. It is frozen: DDP waits for the gradient
    of every weight that is trained.
    """
    masked_lm.config.tie_word_embeddings = False
    for name, tied_name in (masked_lm._tied_weights_keys or {}).items():
        unused = masked_lm.get_parameter(tied_name)
        if masked_lm.get_parameter(name) is not unused and name.endswith("bias"):
            unused.requires_grad_(False)


def check_weights(model: str, masked_lm: Any, missing: Collection[str]) -> None:
    """Raise NotebookError if weights of the encoder are missing or if any weight is not finite.

    missing: the names of the weights that were not in the files. A missing head is only reported.
    """
    prefix = f"{masked_lm.base_model_prefix}."
    names = {name for name in masked_lm.state_dict() if name.startswith(prefix)}
    if lost := names & set(missing):
        raise NotebookError(
            f"model={model!r}: {len(lost)} of the encoder's {len(names)} weights are not in its files "
            f"under the expected names ({min(lost)}, ...) and would be random; save the model again "
            "with save_pretrained, or pass another model"
        )
    for name, weight in masked_lm.named_parameters():
        if not weight.isfinite().all():
            raise NotebookError(
                f"model={model!r}: its weight {name} is not finite (NaN or infinity), so training "
                "would fail; copy or download the model again, or pass another model"
            )
    if missing:
        print(
            f"{model!r} is an encoder without a masked-LM head: the head starts with random weights"
        )
