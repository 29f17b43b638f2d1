"""Sentences to try a model with come from its run's validation set, or are neutral."""

import json

import pytest

from mlm.data.corpus import load_corpus
from mlm.data.tokenizer import learn_wordpiece
from mlm.inference.sentences import NEUTRAL_LINES, NEUTRAL_SENTENCE, NUM_LINES, example_sentences
from mlm.inference.validation_examples import NO_LINE

ANIMALS = [
    f"{first}{last}" for first in ("hor", "don", "rab", "squir") for last in ("se", "key", "bit")
]
MAX_LEN = 32


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """The folder of a corpus of prose, and a tokenizer of its words."""
    folder = tmp_path_factory.mktemp("prose")
    lines = [
        f"The old {a} often watches the {b}, but never the river." for a in ANIMALS for b in ANIMALS
    ]
    (folder / "text.txt").write_text("\n".join(f"{s} {i}." for i, s in enumerate(lines * 5)))
    corpus = load_corpus(str(folder / "text.txt"), folder)
    return corpus, learn_wordpiece(corpus / "train.txt")


def results_of(corpus, max_len=MAX_LEN):
    sha256 = json.loads((corpus / "corpus.json").read_text())["sha256"]
    return {"parameters": {"max_len": max_len, "seed": 3}, "data": {"sha256": sha256}}


def test_lines_are_from_the_validation_set_and_have_one_mask_each(prose):
    corpus, tokenizer = prose
    lines, masked = example_sentences(tokenizer, results_of(corpus), corpus.parents[1])
    assert 4 <= len(lines) == len(masked) == len({*lines}) <= NUM_LINES
    assert {*lines} <= {*(corpus / "valid.txt").read_text().splitlines()}
    for line, sentence in zip(lines, masked):
        before, after = sentence.split("[MASK]")
        assert line.startswith(before) and line.endswith(after) and len(line) > len(before + after)


def test_a_line_that_the_model_reads_in_part_is_cut_off(prose):
    corpus, tokenizer = prose
    lines, masked = example_sentences(tokenizer, results_of(corpus, 12), corpus.parents[1])
    for line in lines + masked:
        assert len(tokenizer(line.replace("[MASK]", tokenizer.mask_token))["input_ids"]) <= 12


def test_without_a_run_or_its_corpus_the_sentences_are_neutral(prose, tmp_path, capsys):
    corpus, tokenizer = prose
    neutral = [*NEUTRAL_LINES], [*NEUTRAL_LINES.values()]
    assert example_sentences(tokenizer, None, tmp_path) == neutral
    assert capsys.readouterr().out == ""
    for max_len, workdir in ((MAX_LEN, tmp_path), (8, corpus.parents[1])):
        assert example_sentences(tokenizer, results_of(corpus, max_len), workdir) == neutral
        assert f"The lines are everyday English: {NO_LINE}." in capsys.readouterr().out


def test_neutral_sentences_have_one_mask():
    assert NEUTRAL_SENTENCE in NEUTRAL_LINES.values()
    for line, sentence in NEUTRAL_LINES.items():
        before, after = sentence.split("[MASK]")
        assert line.startswith(before) and line.endswith(after)
