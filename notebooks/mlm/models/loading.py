"""Load a masked language model: from the Hub, from a folder, or with random weights."""

import contextlib
import copy
import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import AutoModelForMaskedLM
from transformers.utils import logging as transformers_logging

from mlm.data.lengths import MAX_POSITIONS
from mlm.data.token_frequencies import log_frequencies
from mlm.env.hub import load_error, model_source
from mlm.env.network import hub_is_unreachable
from mlm.env.notebook import NotebookError
from mlm.env.scratch import scratch_size, scratch_source
from mlm.models.configs import load_config, size_config, source_config
from mlm.models.encoders import supports_packing
from mlm.models.long_rows import is_long, use_long_attention
from mlm.models.probe import longest_input, one_layer_model, own_logits

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
OUTPUT_OPTIONS = {  # of configs: what training needs
    "output_attentions": False,  # transformers does not save a model with it and fused attention
    "return_dict": True,
}


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


def choose_packing(model: str) -> bool:
    """Whether to pack examples for `model`; prints a line if it does not support packing."""
    if scratch_size(model):
        return True
    config = load_config(model)
    if not supports_packing(config):
        print(f"no packing: {config.model_type!r} models need one example per row")
    return supports_packing(config)


def load_model(
    model: str, tokenizer: Any, max_len: int = 128, dropout: float | None = None, seed: int = 0
) -> Any:
    """A masked language model: pretrained (a Hub name or a folder), or with random weights ("scratch:tiny").

    "scratch:" and a Hub name or folder takes only its configuration, fitted to the tokenizer and `max_len`.
    dropout: None keeps the model's own (0.1 in BERT). seed: for all random weights. The attribute
    `head_was_missing` of the result says whether the files contained an encoder without a head.
    Raises NotebookError if the model cannot be loaded, does not match the tokenizer or `max_len`, or has
    missing or non-finite weights.
    """
    size, source = scratch_size(model), scratch_source(model)
    if (size or source) and max_len > MAX_POSITIONS:
        raise NotebookError(
            f"max_len must be at most {MAX_POSITIONS:,} with model={model!r}, got {max_len:,}: pass a smaller "
            "value"
        )
    if size:
        config = size_config(size, tokenizer, max_len)
    elif source:
        config = source_config(model, tokenizer, max_len)
    else:
        config = load_config(model)
    if getattr(config, "pad_token_id", None) is None and tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id
        print(f"config.json has no pad_token_id: it is now {config.pad_token_id}, the tokenizer's")
    if getattr(config, "layerdrop", 0):  # DDP needs all gradients; a resumed run the same layers
        print(f"layerdrop is {config.layerdrop} in config.json: it is now 0, no layer is skipped")
        config.layerdrop = 0.0
    for name, needed in OUTPUT_OPTIONS.items():
        if getattr(config, name, needed) != needed:
            print(f"{name} is {not needed} in config.json: it is now {needed}, and saved so")
            setattr(config, name, needed)
    check_config(model, config, tokenizer, max_len)
    if dropout is not None:
        text_config = config.get_text_config()  # of a model that also reads images
        text_config.update({name: dropout for name in DROPOUT_NAMES if hasattr(text_config, name)})
    if size or source:
        masked_lm = random_model(config, seed)
    else:
        masked_lm = pretrained_model(model, config, tokenizer, seed)
    keep_untied(masked_lm)
    if is_long(max_len):
        use_long_attention(masked_lm)
    return masked_lm


def pretrained_model(model: str, config: Any, tokenizer: Any, seed: int) -> Any:
    """The pretrained model with this config, padded as the tokenizer pads, tied as in its files.

    Raises NotebookError as `read_model` and `use_tokenizers_padding` do.
    """
    config.tie_word_embeddings = True  # `keep_untied` undoes it if the files have two matrices
    masked_lm = read_model(model, config, seed)
    if pads_with_text(config, tokenizer):
        masked_lm = use_tokenizers_padding(model, masked_lm, tokenizer, seed)
    return masked_lm


def check_config(model: str, config: Any, tokenizer: Any, max_len: int) -> None:
    """Raise NotebookError if a model with this config cannot read the tokenizer's ids or `max_len` tokens.

    max_len: 0 if the length does not matter. Nothing is downloaded: a random model with one layer tries it.
    """
    vocab_size = config.get_text_config().vocab_size
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    needed = max(tokens) + 1  # ids may be unused
    if vocab_size < needed:
        token = tokens[min(token_id for token_id in tokens if token_id >= vocab_size)]
        raise NotebookError(
            f"model={model!r} has {vocab_size} token embeddings, but its tokenizer has {needed} tokens, "
            f"such as {token!r}: if it was added, call resize_token_embeddings({needed}) and save the model "
            "again; otherwise pass a folder in which both come from the same model"
        )
    if max_len and not scratch_size(model):  # whose positions follow from max_len
        with torch.random.fork_rng(devices=[]):
            longest = longest_input(one_layer_model(config), max_len)
        if longest < max_len:
            raise NotebookError(
                f"max_len must be at or below the {longest:,} positions of {model!r}, "
                f"got max_len={max_len}: pass a smaller value"
            )


def read_model(model: str, config: Any, seed: int, quiet: bool = False) -> Any:
    """The pretrained model with this config, in float32; `head_was_missing` is set.

    Prints which weights are dropped and whether the head is new, unless `quiet`. Raises NotebookError if
    the weights cannot be read, do not fit the config, or are missing or not finite.
    """
    source = model_source(model)
    torch.manual_seed(seed)  # for a head that is missing
    try:
        with quiet_transformers():
            masked_lm, report = AutoModelForMaskedLM.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=hub_is_unreachable(source),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_shapes` refuses them
            )
    except Exception as error:
        raise load_error(model, error) from None
    check_shapes(model, report["mismatched_keys"])
    missing = sorted(report["missing_keys"])
    for name, weight in masked_lm.state_dict().items():
        if name in missing and name.endswith("bias"):
            weight.zero_()  # transformers leaves it as the memory was, in Longformer for example
    check_weights(model, masked_lm, missing)
    masked_lm.head_was_missing = bool(missing) and head_weights(masked_lm) <= {*missing}
    if not quiet:
        if masked_lm.head_was_missing:
            print(
                f"{model!r} is an encoder without a masked-LM head: the head starts with random weights"
            )
        elif missing:
            print(f"not in the files of {model!r}, and as in a new model: {', '.join(missing)}")
        print_dropped(report["unexpected_keys"])
    return masked_lm


def head_weights(masked_lm: Any) -> set[str]:
    """The names of the head's weights, without those that are tied to others."""
    encoder, tied = f"{masked_lm.base_model_prefix}.", masked_lm.all_tied_weights_keys
    names = (name for name, _ in masked_lm.named_parameters())
    return {name for name in names if not name.startswith(encoder) and name not in tied}


def print_dropped(unexpected: Collection[str]) -> None:
    """Print which weights of a model's files are not used: of an encoder's layers, and of other parts."""
    dropped = dropped_parts(unexpected)
    layers = [part for part in dropped if re.search(r"\.\d+\.", part)]
    if layers:
        print(
            f"{len(layers)} parts of the files are not used, because no layer of this config.json has them "
            f"({layers[0]}{', ...' if layers[1:] else ''}): the encoder may not be the one that was trained"
        )
    if others := [part for part in dropped if part not in layers]:
        print(f"not used for masked language modelling and not saved again: {', '.join(others)}")


def dropped_parts(unexpected: Collection[str]) -> list[str]:
    """The modules of a model's files that a masked LM lacks: a pooler, the head of another task.

    unexpected: names of weights. Buffers that older versions of transformers saved do not count.
    """
    names = (name for name in unexpected if not name.endswith(("position_ids", "token_type_ids")))
    return sorted({name.rpartition(".")[0] or name for name in names})


def check_shapes(model: str, mismatched: Collection[tuple[str, Any, Any]]) -> None:
    """Raise NotebookError if weights in the files have other shapes than config.json says."""
    if mismatched:
        name, in_files, by_config = min(mismatched)
        raise NotebookError(
            f"model={model!r}: {len(mismatched)} of its weights do not fit its config.json, such as {name} "
            f"with the shape {tuple(in_files)} instead of {tuple(by_config)}; copy config.json again from "
            "where the weights come from"
        )


# padding


def pads_with_text(config: Any, tokenizer: Any) -> bool:
    """Whether the config's padding token is a token of texts in the tokenizer, which pads with another.

    RoBERTa would give this token no position, and no model would learn its embedding.
    """
    pad, unused = config.pad_token_id, {*tokenizer.all_special_ids}
    unused -= {getattr(tokenizer, f"{role}_token_id") for role in ("cls", "sep", "mask", "unk")}
    is_token = pad is not None and pad in tokenizer.get_vocab().values()
    return is_token and pad != tokenizer.pad_token_id and pad not in unused


def use_tokenizers_padding(model: str, masked_lm: Any, tokenizer: Any, seed: int) -> Any:
    """The model with the tokenizer's `pad_token_id`, if its predictions stay the same; prints a line.

    Raises NotebookError if they change: then only the model's owner knows which id it was trained with.
    """
    old, new = masked_lm.config.pad_token_id, tokenizer.pad_token_id
    token = tokenizer.convert_ids_to_tokens(old)
    config = copy.deepcopy(masked_lm.config)
    config.pad_token_id = new
    changed = read_model(model, config, seed, quiet=True)
    first, last, mask = (getattr(tokenizer, f"{role}_token_id") for role in ("cls", "sep", "mask"))
    text = [] if old in tokenizer.all_special_ids else [old]
    examples = [torch.tensor([first, *text, mask, mask, last])]
    with torch.no_grad():
        before = own_logits(masked_lm.eval(), tokenizer, examples)
        after = own_logits(changed.eval(), tokenizer, examples)
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
        raise NotebookError(
            f"model={model!r}: pad_token_id is {old} in config.json, but {new} in its tokenizer, where {old} "
            f"is {token!r}, and the model's positions depend on it; pass the tokenizer that the model was "
            f'trained with, or set "pad_token_id": {new} in config.json'
        )
    print(
        f"pad_token_id is {old} in config.json, which is {token!r} in the tokenizer: it is now {new}, the "
        "tokenizer's, and saved so; no prediction changes"
    )
    return changed


# random weights, new heads


def random_model(config: Any, seed: int) -> Any:
    """A masked language model with this config and random weights in float32, which depend on the seed only."""
    torch.manual_seed(seed)
    masked_lm = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    masked_lm.head_was_missing = False
    return masked_lm


@torch.no_grad()
def init_head_bias(model: Any, train: Any) -> bool:
    """Set the bias of an untrained head to the log token frequencies, so it need not learn them.

    train: a MaskedLMDataset. Embeddings without a token become as rare as a token that the text lacks.
    Returns False, and changes nothing, if the head has no bias per token.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is None or len(bias) != model.config.get_text_config().vocab_size:
        return False
    frequencies = torch.from_numpy(log_frequencies(train)).float()
    bias.fill_(frequencies.min())
    bias[: len(frequencies)] = frequencies
    return True


def keep_untied(masked_lm: Any) -> None:
    """Let a model with separate embedding and decoder matrices keep both when it is saved and loaded.

    Such a model also has two biases, of which one is unused. It is frozen: DDP waits for the gradient
    of every weight that is trained. transformers ties the biases if they are equal in the files, or when it
    resizes the decoder; they are separated, or the decoder's would not be saved.
    """
    decoder, embeddings = masked_lm.get_output_embeddings(), masked_lm.get_input_embeddings()
    if decoder is None or decoder.weight is embeddings.weight:
        return
    masked_lm.config.tie_word_embeddings = False
    for names in (masked_lm._tied_weights_keys or {}).items():
        if not names[0].endswith("bias"):
            continue
        first, second = map(masked_lm.get_parameter, names)
        if first is second:
            decoder.bias = torch.nn.Parameter(first.detach().clone())
        for bias in (first, second):
            if bias is not decoder.bias:
                bias.data = decoder.bias.detach().clone()  # as long, if words were added
                bias.requires_grad_(False)


def check_weights(model: str, masked_lm: Any, missing: Collection[str]) -> None:
    """Raise NotebookError if weights of the encoder are missing or if any weight is not finite.

    missing: the names of the weights that were not in the files. A missing head is allowed.
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
