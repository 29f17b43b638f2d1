"""A small random model of each kind of encoder, and a tokenizer of its family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from mlm.data.tokenizer import learn_wordpiece

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.3,  # large, so that predictions differ clearly between tokens
)
ROBERTA = SMALL | dict(max_position_embeddings=66)
CONFIGS = {  # model_type: the arguments of a small config without dropout; one for each entry in ENCODERS
    "albert": SMALL | dict(embedding_size=16),
    "bert": SMALL,
    "camembert": ROBERTA,
    "deberta-v2": SMALL  # like DeBERTa-v3
    | dict(
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "distilbert": dict(
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.3,
    ),
    "electra": SMALL | dict(embedding_size=16),
    "modernbert": dict(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        global_attn_every_n_layers=2,
        local_attention=8,  # narrower than most examples
        initializer_range=0.3,
        initializer_cutoff_factor=3.0,
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}
OTHERS = {"roformer": SMALL}  # kinds without an entry in mlm.models.encoders.ENCODERS


# tokenizers: the same classes as those of pretrained models, trained on a text

ROBERTA_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def trained_model(model: Any, pre_tokenizer: Any, trainer: Any, lines: list[str]) -> dict[str, Any]:
    """The "model" part of a tokenizer that is trained on lines."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_level_bpe(
    lines: list[str], special_tokens: list[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of a byte-level BPE."""
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = trained_model(models.BPE(), byte_level, trainer, lines)
    return model["vocab"], [(first, second) for first, second in model["merges"]]


def unigram(lines: list[str], special_tokens: list[str]) -> list[tuple[str, float]]:
    """[(piece, log probability)] of a unigram model, as in SentencePiece."""
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special_tokens, unk_token="<unk>", show_progress=False
    )
    model = trained_model(models.Unigram(), pre_tokenizers.Metaspace(), trainer, lines)
    return [(piece, log_p) for piece, log_p in model["vocab"]]


def roberta_tokenizer(lines: list[str]) -> Any:
    vocab, merges = byte_level_bpe(lines, [*ROBERTA_SPECIAL_TOKENS, "<mask>"])
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def xlm_roberta_tokenizer(lines: list[str]) -> Any:
    vocab = [*unigram(lines, ROBERTA_SPECIAL_TOKENS), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab)


def camembert_tokenizer(lines: list[str]) -> Any:
    vocab = [*unigram(lines, ROBERTA_SPECIAL_TOKENS), ("<mask>", 0.0)]
    return transformers.CamembertTokenizer(vocab=vocab)


def albert_tokenizer(lines: list[str]) -> Any:
    vocab = unigram(lines, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    return transformers.AlbertTokenizer(vocab=vocab)


def deberta_tokenizer(lines: list[str]) -> Any:
    vocab = [*unigram(lines, ["[PAD]", "[CLS]", "[SEP]", "<unk>"]), ("[MASK]", 0.0)]
    return transformers.DebertaV2Tokenizer(vocab=vocab, unk_token="<unk>")


def modernbert_tokenizer(lines: list[str]) -> Any:
    special_tokens = {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")
    }
    vocab, merges = byte_level_bpe(lines, [*special_tokens.values()])
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ids)
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special_tokens | {"mask_token": mask}
    )


TOKENIZERS: dict[str, Callable[[list[str]], Any]] = {  # all other kinds: WordPiece
    "albert": albert_tokenizer,
    "camembert": camembert_tokenizer,
    "deberta-v2": deberta_tokenizer,
    "modernbert": modernbert_tokenizer,
    "roberta": roberta_tokenizer,
    "xlm-roberta": xlm_roberta_tokenizer,
}


def make_tokenizer(kind: str, text_file: Path) -> Any:
    """A tokenizer of the class that this kind of model has, trained on a text."""
    if kind not in TOKENIZERS:
        return learn_wordpiece(text_file, vocab_size=300)
    return TOKENIZERS[kind](text_file.read_text(encoding="utf-8").split("\n"))


# models


def make_model(kind: str, tokenizer: Any, **changes: Any) -> Any:
    """A small random masked language model of this kind; `changes` are arguments of its config."""
    config = transformers.AutoConfig.for_model(
        kind,
        **(CONFIGS | OTHERS)[kind] | {"vocab_size": len(tokenizer)} | changes,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForMaskedLM.from_config(config)


class BertPred(nn.Module):
    """The class that 05 loads weights into."""

    def __init__(self, config: transformers.PretrainedConfig) -> None:
        super().__init__()
        self.bert = transformers.AutoModelForMaskedLM.from_config(config)

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        return self.bert(**batch).logits
