"""The tokenizer that the browser page gets has the ids of the tokenizer that the model was trained with."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import BertTokenizer

from encoders import TOKENIZERS, make_tokenizer
from helpers import refused
from languages import TEXTS
from mlm.data.tokenizer import load_tokenizer
from mlm.inference.browser_tokenizer import EDGE_TEXTS, browser_tokenizer, component_types

VOCABULARIES = ["wordpiece", "wordpiece-cased", "bpe", "bpe-cased", "unigram", "unigram-cased"]
SCRIPTS = ["thai", "greek", "mixed"]


def knows(tokenizer):
    """A JavaScript library that knows all parts of a tokenizer."""
    return json.dumps(sorted(component_types(json.loads(tokenizer.backend_tokenizer.to_str()))))


@pytest.fixture
def learn(tmp_path):
    """A function that learns a vocabulary from lines."""

    def learn(lines, vocabulary):
        path = tmp_path / "text.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        return load_tokenizer("scratch:tiny", path, f"{vocabulary}:300")

    return learn


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_rewritten_tokenizer_gives_the_same_ids(learn, script, vocabulary):
    tokenizer = learn(TEXTS[script], vocabulary)
    content, checks = browser_tokenizer(
        tokenizer, knows(tokenizer) + '"Split" "Replace" "Sequence"'
    )
    rewritten = Tokenizer.from_str(json.dumps(content))
    for lines in TEXTS.values():
        assert [e.ids for e in rewritten.encode_batch(lines)] == tokenizer(lines)["input_ids"]
    texts = [text for text, _ in checks]
    assert len(texts) > 2 * len(EDGE_TEXTS)
    assert [ids for _, ids in checks] == tokenizer(texts, verbose=False)["input_ids"]


def test_the_parts_that_javascript_computes_otherwise_are_replaced(learn):
    tokenizer = learn(TEXTS["greek"], "bpe")
    content, _ = browser_tokenizer(tokenizer, knows(tokenizer) + '"Split"')
    steps = content["pre_tokenizer"]["pretokenizers"]
    kinds = [step["type"] for step in steps]
    assert "FixedLength" not in kinds
    assert kinds[kinds.index("Metaspace") + 1] == "Split"
    kinds = [step["type"] for step in content["normalizer"]["normalizers"]]
    assert kinds[kinds.index("Lowercase") - 1] == "Replace"


def test_no_text_of_the_corpus_is_published(learn):
    tokenizer = learn(TEXTS["german"], "wordpiece-cased")
    _, checks = browser_tokenizer(tokenizer, knows(tokenizer) + '"Split" "Replace"')
    assert not [text for text, _ in checks if any(line in text for line in TEXTS["german"])]


@pytest.mark.fault
def test_a_tokenizer_with_an_unknown_part_is_refused(tokenizer: BertTokenizer):
    with refused("page=True", "BertNormalizer", "leave page out"):
        browser_tokenizer(tokenizer, knows(tokenizer).replace("BertNormalizer", "Other"))


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_tokenizers_of_pretrained_kinds_are_rewritten_without_a_change(kind, corpus_folder):
    tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
    if not tokenizer.is_fast:
        pytest.skip("has no tokenizer.json")
    known = knows(tokenizer) + '"Split" "Replace" "Sequence"'
    _, checks = browser_tokenizer(tokenizer, known)
    assert checks
