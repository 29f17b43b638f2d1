"""A tokenizer.json from which a browser gets the token ids that Python gets.

The JavaScript library @huggingface/tokenizers reads the same file, but computes a few of its parts in another
way. These parts are written as others that both compute alike.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mlm.env.notebook import NotebookError
from mlm.inference.mask_token import with_mask

CHECKED_TOKENS = 400  # of the vocabulary, evenly spread
TOKENS_PER_TEXT = 20
EDGE_TEXTS = (
    "",
    "[MASK]",
    "[MASK] first, last [MASK]",
    "a[MASK]b [MASK], [CLS] [SEP] [UNK] [PAD]",
    "Naïve café, ÉCOLE! Übermensch — “quotes” … ½ ﬁ ① e\u0301 A\u030a",
    "It's 3.14 or 1,000: x=y**2 <b> @foo #bar $5 `code` 'quoted' a_b",
    "  spaces   around\tand\u00a0between\u200bwords\u00ad\ufeff  ",
    "x" * 150,
    "😀 👍🏽 👨‍👩‍👧 🇩🇪 " + "😀" * 60,
    "東京タワー 北京 한국어 𠀀𠀁",
    "ΟΔΟΣ Σίσυφος ΣΑΣ σας",
    "next\x85line",
    "İstanbul Iğdır ıI ẞ ß",
    "नमस्ते दुनिया क्‍ष",
    "สวัสดีชาวโลก ภาษาไทย",
    "مرحبا بالعالم ١٢٣ می‌خواهم",
)


def split_at(regex: str, behavior: str = "Isolated") -> dict[str, Any]:
    """A pre-tokenizer that makes each match of a regular expression a piece of its own, or removes it."""
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


def for_browser(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, written so that JavaScript computes them as Python does."""
    if part is None:
        return []
    kind = part["type"]
    if kind == "Sequence":
        steps = part.get("normalizers", part.get("pretokenizers", []))
        return [new for step in steps for new in for_browser(step)]
    if kind == "FixedLength":  # there, an emoji counts as two characters
        return [split_at(r"[\s\S]{1," + f"{part['length']}}}")]
    if kind == "Metaspace" and part.get("split", True):  # there, it does not split
        return [part, split_at(f"{part['replacement']}[^{part['replacement']}]*")]
    if kind == "BertPreTokenizer":  # there, Chinese beyond 16 bits is no word, NEL is no space
        chinese = r"[\x{20000}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
        return [split_at(r"\x{85}", "Removed"), part, split_at(chinese)]
    if kind == "Lowercase" or (kind == "BertNormalizer" and part["lowercase"]):
        # there, a sigma at the end of a word becomes ς
        return [{"type": "Replace", "pattern": {"String": "Σ"}, "content": "σ"}, part]
    return [part]


def component_types(part: Any) -> set[str]:
    """The types of all components of a tokenizer.json."""
    if isinstance(part, list):
        return {kind for each in part for kind in component_types(each)}
    if not isinstance(part, dict):
        return set()
    found = {kind for each in part.values() for kind in component_types(each)}
    return found | ({part["type"]} if isinstance(part.get("type"), str) else set())


def check_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts on which the tokenizers are compared: difficult ones, and tokens of the vocabulary.

    None of them is from the text that the model was trained on, so the page can be published.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens = [token for token in tokens if token][:: max(1, len(tokenizer) // CHECKED_TOKENS)]
    groups = [tokens[i : i + TOKENS_PER_TEXT] for i in range(0, len(tokens), TOKENS_PER_TEXT)]
    texts = [*EDGE_TEXTS, *map(" ".join, groups), *map("".join, groups)]
    texts += [text.upper() for text in texts]
    texts += [f"{word} x{word}y ({word})" for word in list(tokenizer.get_added_vocab())[-10:]]
    return [with_mask(tokenizer, text) for text in texts]


def browser_tokenizer(
    tokenizer: PreTrainedTokenizerBase, javascript: str
) -> tuple[dict[str, Any], list[tuple[str, list[int]]]]:
    """The tokenizer.json for a browser, and texts with the ids that it must give.

    `javascript` is the source of the library that will read it. Raises NotebookError if that library does
    not know a part of the tokenizer.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for name, steps in ("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"):
        if content[name] is not None:
            content[name] = {"type": "Sequence", steps: for_browser(content[name])}
    content |= {"truncation": None, "padding": None}
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    types = component_types([content[part] for part in parts]) | {content["model"]["type"]}
    unknown = sorted(kind for kind in types if not re.search(rf"[\"'`]{kind}[\"'`]", javascript))
    if unknown:
        raise NotebookError(
            f"page=True: the tokenizer has a part that the JavaScript library does not know "
            f"({', '.join(unknown)}); leave page out"
        )
    texts = check_texts(tokenizer)
    ids = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    rewritten = Tokenizer.from_str(json.dumps(content))
    if [encoding.ids for encoding in rewritten.encode_batch(texts)] != ids:
        raise NotebookError(
            "page=True: this tokenizer cannot be written for the browser without a change of its token "
            "ids; leave page out"
        )
    return content, list(zip(texts, ids))
