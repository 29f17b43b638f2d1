"""The config of a model: as it was saved, of a size such as "scratch:tiny", or fitted to another tokenizer."""

import copy
import hashlib
import json
from typing import Any

import torch
from transformers import AutoConfig, BertConfig, ModernBertConfig, PretrainedConfig

from mlm.data.lengths import num_positions
from mlm.env.hub import load_error, model_source
from mlm.env.network import hub_is_unreachable
from mlm.env.notebook import NotebookError
from mlm.env.scratch import SIZES, Size, scratch_size, scratch_source
from mlm.models.long_rows import LONG_ROW, is_long
from mlm.models.probe import length_error, longest_input, one_layer_model

FEW_TOKENS = 64
SHORT_ROWS_BASE = 10_000.0  # of rotary positions
NOT_ARCHITECTURE = (  # entries of config.json that say nothing about the model
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
)


def load_config(model: str) -> Any:
    """The config of a model in a folder or on the Hub, also for "scratch:" and either of them.

    Raises NotebookError if it cannot be loaded.
    """
    source = model_source(model)
    try:
        return AutoConfig.from_pretrained(
            source, local_files_only=hub_is_unreachable(source), trust_remote_code=False
        )
    except Exception as error:
        raise load_error(model, error) from None


def encoder_size(model: str) -> tuple[int, int]:
    """(hidden size, layers) of a model's encoder; BERT-base's where a configuration names none.

    Raises NotebookError if the configuration cannot be loaded.
    """
    if size := scratch_size(model):
        return size.hidden, size.layers
    config, base = load_config(model).get_text_config(), SIZES["base"]
    # configurations with other names map these to them
    hidden = getattr(config, "hidden_size", base.hidden)
    return hidden, getattr(config, "num_hidden_layers", base.layers)


def source_digest(model: str) -> str | None:
    """The SHA-256 of the configuration that `model="scratch:SOURCE"` takes; None for all other models.

    Of the entries of config.json, so that a newer version of transformers gives the same.
    """
    if not scratch_source(model):
        return None
    source = model_source(model)
    offline = hub_is_unreachable(source)
    content, _ = PretrainedConfig.get_config_dict(source, local_files_only=offline)
    content = {name: v for name, v in content.items() if name not in NOT_ARCHITECTURE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def size_config(size: Size, tokenizer: Any, max_len: int = 0) -> Any:
    """The config of a BERT or ModernBERT of this size, with positions for `max_len` tokens.

    The rotary positions of ModernBERT's global layers have a larger base than its local layers in long
    rows, and the same base in shorter ones, as when it was trained on rows of up to 1,024 tokens
    (arXiv:2412.13663).
    """
    shape = dict(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        intermediate_size=size.feed_forward,
        max_position_embeddings=num_positions(max_len),
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02 * (768 / size.hidden) ** 0.5,  # BERT-base (hidden size 768) has 0.02
    )
    if not size.modern:
        return BertConfig(**shape)
    ids = special_ids(tokenizer)
    shape |= {f"{role}_token_id": ids[role] for role in ("bos", "eos", "cls", "sep")}
    config = ModernBertConfig(**shape)
    if not is_long(max_len):
        for rotary in config.rope_parameters.values():
            rotary["rope_theta"] = SHORT_ROWS_BASE
    return config


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """{role: id} of a tokenizer's special tokens, as configs name the roles.

    A tokenizer without a first and last token of a text has [CLS] and [SEP] in these places.
    """
    roles = "pad", "unk", "cls", "sep", "mask", "bos", "eos"
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in roles}
    instead = {"bos": ids["cls"], "eos": ids["sep"]}
    return ids | {role: other for role, other in instead.items() if ids[role] is None}


def fit_special_ids(config: Any, tokenizer: Any) -> None:
    """Give a config the tokenizer's ids of special tokens: of padding, and of all others that it names."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for role, token_id in special_ids(tokenizer).items():
            names = (f"{role}_token_id", f"{role}_index")  # XLM's end in "_index"
            for name in names:
                if getattr(part, name, None) is not None:
                    setattr(part, name, token_id)
        part.pad_token_id = tokenizer.pad_token_id


def source_config(model: str, tokenizer: Any, max_len: int = 0) -> Any:
    """The config that `model="scratch:SOURCE"` takes from a folder or the Hub, fitted to a tokenizer.

    It has an embedding for each id, the ids of special tokens, and positions for `max_len` tokens. Raises
    NotebookError if the config cannot be loaded or is not valid.
    """
    config = load_config(model)
    config.__dict__.pop("quantization_config", None)  # of weights that are not used
    text_config = config.get_text_config()
    padding = text_config.pad_token_id or 0
    text_config.vocab_size = max(tokenizer.get_vocab().values()) + 1  # ids may be unused
    fit_special_ids(config, tokenizer)
    if getattr(text_config, "max_position_embeddings", None):
        if positions_follow_padding(config):
            text_config.max_position_embeddings += tokenizer.pad_token_id - padding
        fit_positions(config, tokenizer, max_len)
    return config


def positions_follow_padding(config: Any) -> bool:
    """Whether a kind of model has its first position after the id of padding, as RoBERTa; one layer is tried."""
    small = copy.deepcopy(config)
    text_config = small.get_text_config()
    text_config.max_position_embeddings = text_config.pad_token_id + 1 + FEW_TOKENS
    try:
        with torch.random.fork_rng(devices=[]):
            return length_error(one_layer_model(small), FEW_TOKENS + 1) is not None
    except NotebookError:  # a kind whose number of positions follows from other entries
        return False


def fit_positions(config: Any, tokenizer: Any, max_len: int) -> None:
    """Add positions to a config if `max_len` tokens need more.

    The tokenizer's `model_max_length` is then at most their number. Some kinds use positions for
    themselves, so a random model with one layer is tried.
    """
    text_config = config.get_text_config()
    declared = text_config.max_position_embeddings
    with torch.random.fork_rng(devices=[]):
        wanted = max(max_len, min(declared, LONG_ROW))
        longest = longest_input(one_layer_model(config), wanted)
    if longest < max_len:
        text_config.max_position_embeddings = declared + max_len - longest
    if longest < wanted or declared <= LONG_ROW:  # otherwise there are more than were tried
        limit = max(longest, max_len)
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
