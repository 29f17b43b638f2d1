"""A small random model of each kind, and a tokenizer of its family learned from the tests' sentences."""

import json

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mlm.data.tokenizer import learn_wordpiece

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.3,  # so that predictions differ clearly from token to token
)
ROBERTA = SMALL | dict(max_position_embeddings=66)
CONFIGS = {  # model_type: what makes it small, random and without dropout
    "albert": SMALL | dict(embedding_size=16),
    "bert": SMALL,
    "camembert": ROBERTA,
    "deberta-v2": SMALL  # as DeBERTa-v3 is
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
OTHERS = {"roformer": SMALL}  # without a line in mlm.models.encoders.HEADS


def learned_model(model, pre_tokenizer, trainer, lines):
    """The "model" part of a tokenizer that is learned from lines, a dict."""
    learner = Tokenizer(model)
    learner.pre_tokenizer = pre_tokenizer
    learner.train_from_iterator(lines, trainer)
    return json.loads(learner.to_str())["model"]


def byte_level(lines, special):
    """(vocab, merges) of a byte-level BPE."""
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found = learned_model(
        models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer, lines
    )
    return found["vocab"], [tuple(pair) for pair in found["merges"]]


def unigram(lines, special):
    """[(piece, log probability)] as SentencePiece has them."""
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    found = learned_model(models.Unigram(), pre_tokenizers.Metaspace(), trainer, lines)
    return [tuple(piece) for piece in found["vocab"]]


def make_tokenizer(kind, text_file):
    """A tokenizer of the class that this kind of model has, learned from a text."""
    lines = text_file.read_text(encoding="utf-8").split("\n")
    roberta = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "roberta":
        vocab, merges = byte_level(lines, [*roberta, "<mask>"])
        return transformers.RobertaTokenizer(vocab=vocab, merges=merges)
    if kind == "modernbert":
        names = dict(unk="[UNK]", cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]")
        vocab, merges = byte_level(lines, [*names.values()])
        fast = Tokenizer(models.BPE(vocab, merges))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.decoder = decoders.ByteLevel()
        ids = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
        fast.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ids)
        names = {f"{name}_token": token for name, token in names.items()}
        names["mask_token"] = AddedToken("[MASK]", lstrip=True, special=True)
        return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **names)
    if kind in ("xlm-roberta", "camembert"):
        made = (
            transformers.XLMRobertaTokenizer if kind[0] == "x" else transformers.CamembertTokenizer
        )
        return made(vocab=[*unigram(lines, roberta), ("<mask>", 0.0)])
    if kind == "albert":
        special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
        return transformers.AlbertTokenizer(vocab=unigram(lines, special))
    if kind == "deberta-v2":
        vocab = unigram(lines, ["[PAD]", "[CLS]", "[SEP]", "<unk>"])
        return transformers.DebertaV2Tokenizer(vocab=[*vocab, ("[MASK]", 0.0)], unk_token="<unk>")
    return learn_wordpiece(text_file, vocab_size=300)


def make_model(kind, tokenizer, **changes):
    """A small random model of this kind, the same every time."""
    config = transformers.AutoConfig.for_model(
        kind,
        **(CONFIGS | OTHERS)[kind] | dict(vocab_size=len(tokenizer)) | changes,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForMaskedLM.from_config(config)
