"""Examples from the validation set are chosen by a rule; accuracy by frequency adds up to the accuracy."""

import copy
import re

import numpy as np
import pytest
from transformers import EsmTokenizer

from encoders import make_model, make_tokenizer
from mlm.data.batches import MaskedBatches
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH
from mlm.inference.accuracy import accuracy_by_frequency
from mlm.inference.predict import predict_masked
from mlm.inference.validation_examples import (
    NO_LINE,
    STOP_WORDS,
    ValidationExample,
    find_pairs,
    format_examples,
    is_content_word,
    masked_sentence,
    reads_as_prose,
    validation_examples,
)
from texts import ANIMALS, PLACES, VERBS, put


@pytest.fixture
def examples_of(results_of, prose_corpus, prose_tokenizer):
    """A function: the examples for a model."""

    def examples(model, **options):
        workdir, results = prose_corpus.parents[1], results_of(prose_corpus)
        return validation_examples({"a": model}, prose_tokenizer, results, workdir, **options)

    return examples


# the rule


def test_examples_are_masked_content_words_in_lines_of_prose(
    examples_of, prose_model, prose_corpus, prose_tokenizer
):
    valid = MaskedLMDataset(prose_corpus / "valid.txt", prose_tokenizer, 32)
    lines, training_text = (
        (prose_corpus / f"{split}.txt").read_text() for split in ("valid", "train")
    )
    lines = lines.splitlines()
    keys = [(VALIDATION_EPOCH, np.arange(len(valid)))]
    (batch,) = MaskedBatches(valid, keys, 0.15, 3)
    examples = examples_of(prose_model, num_examples=100)
    assert len(examples) > 10
    for example in examples:
        before, after = example.sentence.split("[MASK]")
        (number,) = [n for n, s in enumerate(lines) if s == f"{before}{example.answer}{after}"]
        masked = batch["labels"][number]
        assert example.answer in prose_tokenizer.convert_ids_to_tokens(masked[masked != -100])
        assert example.line == lines[number]
        assert lines[number].startswith("The ") and example.answer not in STOP_WORDS
        assert example.answer in {*ANIMALS, *VERBS, *PLACES}
        left, right = before.split()[-1], re.match(r" ?(\w+|\W)", after)[0]
        assert f"{left} {example.answer}" in training_text
        assert f"{example.answer}{right}" in training_text


def test_a_validation_line_without_tokens_moves_no_other_line(
    results_of, prose_corpus, prose_tokenizer, prose_model, tmp_path
):
    """It is no example, so the numbers of examples and lines differ."""
    train, valid = (put(tmp_path / split, b"") for split in ("train.txt", "valid.txt"))
    (tmp_path / "train.txt").write_bytes((prose_corpus / "train.txt").read_bytes())
    (tmp_path / "valid.txt").write_bytes(
        "\u200b\n".encode() + (prose_corpus / "valid.txt").read_bytes()
    )
    folder = load_corpus(train, tmp_path / "work", valid_corpus=valid)
    results = results_of(folder)
    examples = validation_examples({}, prose_tokenizer, results, tmp_path / "work", num_examples=20)
    assert len(examples) > 10 and all(reads_as_prose(example.line) for example in examples)


def test_a_compiled_encoder_is_not_compiled_again_for_each_line(examples_of, prose_model):
    """On a CPU this takes a minute per length."""
    expected, compiled = examples_of(prose_model), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    model = copy.deepcopy(prose_model)
    model.base_model.compile(dynamic=False, backend=backend)
    assert examples_of(model) == expected and not compiled


def test_examples_are_evenly_spread_and_always_the_same(examples_of, prose_model):
    every, three = (
        examples_of(prose_model, num_examples=100),
        examples_of(prose_model, num_examples=3),
    )
    assert three == [every[0], every[(len(every) - 1) // 2], every[-1]]
    assert every == examples_of(prose_model, num_examples=100)


def test_the_choice_does_not_depend_on_the_predictions(examples_of, prose_model, prose_tokenizer):
    other = make_model("bert", prose_tokenizer, num_hidden_layers=1).eval()
    one, two = examples_of(prose_model), examples_of(other)
    assert [(e.sentence, e.answer) for e in one] == [(e.sentence, e.answer) for e in two]
    assert [e.predictions for e in one] != [e.predictions for e in two]


def test_predictions_are_those_for_the_shown_sentence(examples_of, prose_model, prose_tokenizer):
    for example in examples_of(prose_model, top_k=5):
        (row,) = predict_masked(prose_model, prose_tokenizer, example.sentence, top_k=5)
        assert example.predictions == {"a": [token for token, _ in row]}


def test_without_any_prose_other_masked_words_are_shown(
    results_of, corpus_folder, tokenizer, bert, capsys
):
    """Each line of this corpus begins with a number."""
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    examples = validation_examples({"a": bert.eval()}, tokenizer, results, workdir)
    assert len(examples) == 8 and all("[MASK]" in example.sentence for example in examples)
    assert capsys.readouterr().out == ""


def test_without_the_corpus_there_are_no_examples(
    results_of, corpus_folder, tokenizer, bert, tmp_path, capsys
):
    results = results_of(corpus_folder)
    assert validation_examples({"a": bert}, tokenizer, results, tmp_path) == []
    assert accuracy_by_frequency({"a": bert}, tokenizer, results, tmp_path) is None
    assert capsys.readouterr().out.count("corpus of this run is not in workdir") == 2


@pytest.mark.parametrize(
    "line, is_prose",
    [
        ("What is done out of love, takes place beyond good and evil.", True),
        ("Überall der Geist; nirgends – die Ruhe!", True),
        ("लड़का घर में बैठा है।", True),  # no capitals, vowel signs are no letters of their own
        ("הילד הלך לבית הספר.", True),
        ("کتاب‌ها را می‌خواند.", True),  # with joiners
        ("and the rest of a sentence.", False),
        ("- a list", False),
        ("Returns x[0] of the list.", False),
        ("", False),
    ],
)
def test_prose_begins_with_a_capital_letter_and_has_common_punctuation(line, is_prose):
    assert reads_as_prose(line) is is_prose


@pytest.mark.parametrize(
    "word, is_content",
    [
        ("power", True),
        ("लड़का", True),
        ("will", False),  # a stop word
        ("Would", False),
        ("the", False),  # too short
        ("1886", False),
        ("##ness", False),
        ("--", False),
    ],
)
def test_content_words_carry_meaning(word, is_content):
    assert is_content_word(word) is is_content


def test_neighbours_are_found_across_chunks_of_the_text(dataset, monkeypatch):
    ids = dataset.ids
    pairs = np.stack([ids[:-1], ids[1:]], axis=1)[::7]
    missing = np.array([[dataset.tokenizer.mask_token_id, ids[0]]])
    monkeypatch.setattr("mlm.inference.validation_examples.CHUNK_TOKENS", 10)
    assert find_pairs(dataset, np.concatenate([missing, pairs])).tolist() == [False] + [True] * len(
        pairs
    )


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "modernbert"])
def test_the_shown_line_keeps_its_spelling_around_the_mask(corpus_folder, model_type):
    tokenizer = make_tokenizer(model_type, corpus_folder / "train.txt")
    line = "Human, All Too Human: he was not at good will"
    encoded = tokenizer(line, add_special_tokens=False)
    ids, words = encoded["input_ids"], encoded.word_ids()
    position = max(p for p, w in enumerate(words) if w == words[-1] - 1)  # the last token of "good"
    shown = masked_sentence(line, ids, position, tokenizer)
    start, _, end = shown.partition("[MASK]")
    assert line.startswith(start) and start.startswith("Human, All Too Human: he was not at")
    assert end == " will"
    changed = [*ids[:-1], ids[0]]  # not the ids of this line: they are decoded
    assert masked_sentence(line, changed, 0, tokenizer).strip().startswith("[MASK]")


def test_examples_are_printed_with_aligned_answers():
    examples = [
        ValidationExample("A [MASK].", "dog", {"before": ["x", "y"], "after": ["cat", "dog"]}, ""),
        ValidationExample(
            "The [MASK].", "sun", {"before": ["z", "y"], "after": ["sun", "sea"]}, ""
        ),
    ]
    assert format_examples(examples).splitlines() == [
        "A [MASK].",
        "    answer  dog",
        "    before  x, y",
        "    after   cat, dog",
        "",
        "The [MASK].",
        "    answer  sun",
        "    before  z, y",
        "    after   sun, sea",
    ]
    assert format_examples([]) == f"No examples: {NO_LINE}."


def test_a_tokenizer_in_python_shows_what_the_model_reads(tmp_path):
    """It does not say where its tokens are in the line."""
    special, letters = ["<cls>", "<pad>", "<eos>", "<unk>"], [*"LAGVSERTIDPKQNFYMHWC"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *letters, "<mask>"]))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    ids = tokenizer("M K V L A", add_special_tokens=False)["input_ids"]
    assert masked_sentence("M K V L A", ids, 2, tokenizer).split() == ["M", "K", "[MASK]", "L", "A"]
