"""Examples from the validation set are chosen by a rule; accuracy by frequency adds up to the accuracy."""

import copy
import json
import re
from itertools import product

import numpy as np
import pytest
from transformers import BertTokenizer, EsmTokenizer

from encoders import make_model, make_tokenizer
from mlm.data.batches import MaskedBatches
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH
from mlm.data.tokenizer import learn_wordpiece
from mlm.inference.predict import predict_masked
from mlm.inference.validation_examples import (
    STOP_WORDS,
    ValidationExample,
    accuracy_by_frequency,
    find_pairs,
    format_examples,
    is_content_word,
    is_initial_model,
    load_split,
    masked_sentence,
    reads_as_prose,
    validation_examples,
    validation_loss,
)
from mlm.models.preparation import init_head_bias
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM

ANIMALS = "horse", "donkey", "rabbit", "squirrel"
VERBS = "watches", "follows", "hears"
PLACES = "river", "forest", "garden", "village", "mountain"


def results_of(corpus):
    """The parts of run.json that say which corpus, and how it was masked."""
    sha256 = json.loads((corpus / "corpus.json").read_text())["sha256"]
    return {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": sha256}}


@pytest.fixture(scope="module")
def prose_corpus(tmp_path_factory):
    """A corpus in which every second line is prose and every other line is not."""
    folder = tmp_path_factory.mktemp("prose")
    lines = []
    for first, verb, second, place in product(ANIMALS, VERBS, ANIMALS, PLACES):
        lines.append(f"The old {first} often {verb} the {second}, but never in this {place}.")
        lines.append(f"{first}_{verb}({second}) = {place} or None  # {len(lines)}")
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return load_corpus(str(folder / "text.txt"), folder)


@pytest.fixture(scope="module")
def prose_tokenizer(prose_corpus):
    return learn_wordpiece(prose_corpus / "train.txt")


@pytest.fixture(scope="module")
def prose_model(prose_tokenizer):
    return make_model("bert", prose_tokenizer).eval()


@pytest.fixture
def examples_of(prose_corpus, prose_tokenizer):
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


def test_without_any_prose_other_masked_words_are_shown(corpus_folder, tokenizer, bert, capsys):
    """Each line of this corpus begins with a number."""
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    examples = validation_examples({"a": bert.eval()}, tokenizer, results, workdir)
    assert len(examples) == 8 and all("[MASK]" in example.sentence for example in examples)
    assert capsys.readouterr().out == ""


def test_without_the_corpus_there_are_no_examples(corpus_folder, tokenizer, bert, tmp_path, capsys):
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
    assert format_examples([]) == ""


# accuracy by frequency


def test_accuracy_by_frequency_adds_up_to_the_validation_accuracy(corpus_folder, tokenizer, bert):
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    data = MaskedLMData(
        train=valid, valid=valid, batch_size=32, mlm_probability=0.15, seed=3, total_steps=0
    )
    batches = list(data.validation_batches())
    num_masked = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    bands, total = table.drop("all"), table.loc["all"]
    assert bands["masked tokens"].sum() == total["masked tokens"] == num_masked and len(bands) > 1
    for name in ("a", "most frequent token"):
        mean = (bands[name] * bands["masked tokens"]).sum() / num_masked
        assert total[name] == pytest.approx(mean)
    assert evaluate(MaskedLM(bert, {}), batches)["accuracy"] == pytest.approx(total["a"])


def test_accuracy_by_frequency_works_with_a_vocabulary_of_letters(corpus_folder):
    """Of less than 100 tokens, like the amino acids of ESM: -100 is no index then."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *letters]
    tokens += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    model = make_model("bert", tokenizer, num_hidden_layers=1).eval()
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": model}, tokenizer, results, workdir)
    assert len(tokenizer) < 100 and table["masked tokens"].sum() > 0


def test_the_most_frequent_token_is_right_only_in_the_last_band(corpus_folder, tokenizer, bert):
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    accuracy = table.drop("all")["most frequent token"]
    assert accuracy.iloc[-1] > 0 and (accuracy.iloc[:-1] == 0).all()


def test_a_tokenizer_in_python_shows_what_the_model_reads(tmp_path):
    """It does not say where its tokens are in the line."""
    special, letters = ["<cls>", "<pad>", "<eos>", "<unk>"], [*"LAGVSERTIDPKQNFYMHWC"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *letters, "<mask>"]))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    ids = tokenizer("M K V L A", add_special_tokens=False)["input_ids"]
    assert masked_sentence("M K V L A", ids, 2, tokenizer).split() == ["M", "K", "[MASK]", "L", "A"]


# the model before training


@pytest.mark.parametrize(
    "precision, tolerance", [("torch.float32", 1e-4), ("torch.bfloat16", 1e-2)]
)
def test_a_rebuilt_model_must_have_the_loss_that_was_stored(
    prose_corpus, prose_tokenizer, prose_model, capsys, precision, tolerance
):
    results, workdir = results_of(prose_corpus), prose_corpus.parents[1]
    loss = validation_loss(prose_model, prose_tokenizer, results, prose_corpus)
    hardware = {"device": "cpu", "precision": precision}
    for factor, expected in ((1, True), (1 + 0.5 * tolerance, True), (1 + 2 * tolerance, False)):
        stored = results | {"hardware": hardware, "before": {"loss": loss * factor}}
        assert is_initial_model(prose_model, prose_tokenizer, stored, workdir) == expected
        assert not prose_model.training  # otherwise dropout would change its predictions
        assert ("changed after the run" in capsys.readouterr().out) != expected


def test_a_new_head_gets_the_bias_that_training_gave_it(prose_corpus, prose_tokenizer):
    results, before_training = results_of(prose_corpus), make_model("bert", prose_tokenizer).eval()
    rebuilt = copy.deepcopy(before_training)
    rebuilt.head_was_missing = True
    init_head_bias(before_training, load_split(prose_corpus, "train", prose_tokenizer, results))
    loss = validation_loss(before_training, prose_tokenizer, results, prose_corpus)
    hardware = {"device": "cpu", "precision": "torch.float32"}
    stored = results | {"hardware": hardware, "before": {"loss": loss}}
    assert is_initial_model(rebuilt, prose_tokenizer, stored, prose_corpus.parents[1])


def test_without_the_corpus_a_rebuilt_model_is_not_verified(
    prose_corpus, prose_tokenizer, prose_model, tmp_path, capsys
):
    results = results_of(prose_corpus) | {"before": {"loss": 1.0}}
    assert is_initial_model(prose_model, prose_tokenizer, results, tmp_path)
    assert "not verified" in capsys.readouterr().out
