"""Tokenizers without a fast version: small ones, of the same classes as those of pretrained models."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from random import Random

import transformers
from transformers import PreTrainedTokenizerBase

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
JAPANESE = [
    "猫は東京都に住む。",
    "東京の猫は魚を食べる。",
    "犬も猫も東京に住む人を見る。",
    "駅の前で犬が待つ。",
]
TWEETS = ["the river is lower", "a lower bell , the bell", "the well is below the river"]


def write(path: Path, lines: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def esm(folder: Path) -> PreTrainedTokenizerBase:
    special = ["<cls>", "<pad>", "<eos>", "<unk>"]
    vocabulary = [*special, *AMINO_ACIDS, *"XBUZO.-", "<null_1>", "<mask>"]
    tokenizer = transformers.EsmTokenizer(write(folder / "vocab.txt", vocabulary))
    tokenizer.sep_token = tokenizer.eos_token
    return tokenizer


def subword_units(folder: Path) -> tuple[str, str]:
    """The files (vocabulary, merges) of BERTweet and PhoBERT: "@@" ends a token that goes on."""
    letters = sorted(set("".join(TWEETS)) - {" "})
    merges = ["t h", "th e</w>", "e l", "e r</w>", "el l</w>", "l o", "lo w"]
    tokens = [*letters, *(f"{letter}@@" for letter in letters)]
    tokens += ["the", "th@@", "ell", "er", "el@@", "low@@", "lo@@"]
    vocabulary = [f"{token} {1000 - number}" for number, token in enumerate(tokens)]
    merges = [f"{merge} {1000 - number}" for number, merge in enumerate(merges)]
    return write(folder / "vocab.txt", vocabulary), write(folder / "bpe.codes", merges)


def bertweet(folder: Path) -> PreTrainedTokenizerBase:
    return transformers.BertweetTokenizer(*subword_units(folder))


def phobert(folder: Path) -> PreTrainedTokenizerBase:
    return transformers.PhobertTokenizer(*subword_units(folder))


def japanese(folder: Path, **options: object) -> PreTrainedTokenizerBase:
    letters = sorted(set("".join(JAPANESE)))
    words = ["東京", "住む", "食べ", *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]
    return transformers.BertJapaneseTokenizer(write(folder / "vocab.txt", vocabulary), **options)


def mecab(folder: Path) -> PreTrainedTokenizerBase:
    return japanese(folder, word_tokenizer_type="mecab")


def mecab_characters(folder: Path) -> PreTrainedTokenizerBase:
    options = dict(word_tokenizer_type="mecab", subword_tokenizer_type="character")
    return japanese(folder, **options)


Maker = Callable[[Path], PreTrainedTokenizerBase]
MAKERS: dict[str, Maker] = {
    "esm": esm,
    "bertweet": bertweet,
    "phobert": phobert,
    "japanese": japanese,  # splits at spaces only
    "mecab": mecab,
    "mecab_characters": mecab_characters,
}
if importlib.util.find_spec("fugashi") is None:
    del MAKERS["mecab"], MAKERS["mecab_characters"]


def lines_for(name: str, count: int, seed: int = 0) -> list[str]:
    """Lines of the kind of text that a tokenizer of MAKERS is for."""
    random = Random(seed)
    if name == "esm":
        return ["".join(random.choices(AMINO_ACIDS, k=random.randint(5, 60))) for _ in range(count)]
    known = TWEETS if name in ("bertweet", "phobert") else JAPANESE
    return [" ".join(random.choices(known, k=random.randint(1, 4))) for _ in range(count)]
