"""Texts -> vectors; nearest texts; sentence-transformers loads model/ and computes the same vectors."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from encoders import CONFIGS, make_model, make_tokenizer
from helpers import refused
from mlm.inference.load import find_run
from mlm.inference.vectors import (
    check_sentence_transformers,
    excerpts,
    nearest,
    pool,
    sentence_transformers_files,
    text_vectors,
    to_batch,
    warn_about_long_texts,
    write_sentence_transformers,
)
from mlm.training.run_files import output_files


def test_pooling_is_the_mean_over_real_tokens():
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)])
    assert torch.allclose(pool(hidden, mask), expected)


def test_a_text_has_the_same_vector_in_every_batch(model, word_tokenizer, text):
    together = text_vectors(model, word_tokenizer, [text, "evil", "good name"] * 30, 16)
    alone = text_vectors(model, word_tokenizer, ["evil"], 16)
    assert together.shape == (90, 32)
    assert np.allclose(together[1::3], alone, atol=1e-5)


def test_padding_does_not_count_if_the_tokenizer_gives_no_attention_mask(model, word_tokenizer):
    """As FNet's."""
    tokenizer = copy.deepcopy(word_tokenizer)
    tokenizer.model_input_names = ["input_ids"]
    texts = ["evil", "good name"]
    vectors = text_vectors(model, tokenizer, texts, 16)
    assert np.allclose(vectors, text_vectors(model, word_tokenizer, texts, 16), atol=1e-5)


def test_long_texts_are_cut_off_and_special_tokens_are_text(model, word_tokenizer, text):
    assert len(text_vectors(model, word_tokenizer, [text * 50], 16)) == 1
    mask, word = (text_vectors(model, word_tokenizer, [t], 16) for t in ("[MASK]", "mask"))
    assert not np.allclose(mask, text_vectors(model, word_tokenizer, [" "], 16))
    assert mask.shape == word.shape


@pytest.mark.parametrize(
    "num_long, line", [(0, ""), (1, ""), (2, "2 of the 10 texts"), (10, "10 of")]
)
def test_a_line_says_if_many_texts_are_longer_than_what_the_encoder_reads(
    word_tokenizer, capsys, num_long, line
):
    """They have 8 and 9 tokens, with [CLS] and [SEP]."""
    texts = num_long * ["evil " * 7] + (10 - num_long) * ["evil " * 6]
    warn_about_long_texts(word_tokenizer, texts, 8)
    output = capsys.readouterr().out
    assert output.startswith(line) and ("longer than 8 tokens" in output) == bool(line)


def test_additional_special_tokens_are_tokens_as_in_training(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[USER]"]})
    ids = to_batch(tokenizer, ["the [USER]"], 16)["input_ids"][0].tolist()
    assert ids == tokenizer("the [USER]")["input_ids"]
    assert tokenizer.convert_tokens_to_ids("[USER]") in ids


def test_the_nearest_texts_are_sorted_by_the_angle_alone():
    keys = np.array([[1.0, 0], [0, 3], [-2, 0], [5, 5]])
    queries = np.array([[10.0, 1], [0, -0.1], [1, 1]])
    rows, cosines = nearest(queries, keys, 2)
    assert rows.tolist() == [[0, 3], [0, 2], [3, 0]]  # equal cosines: the first key first
    assert np.allclose(cosines[2], [1, 0.5**0.5])
    assert nearest(queries, keys)[0].tolist() == [[0], [0], [3]]
    assert nearest(queries, keys, 10)[0].shape == (3, 4)
    assert np.array_equal(nearest(1000 * queries, keys, 4)[0], nearest(queries, keys, 4)[0])


@pytest.mark.parametrize(
    "text",
    ["word " * 100, "北京是首都。" * 50, "x" * 200, "短 " + "文" * 200, "a\nb", "", "x" * 70],
)
def test_an_excerpt_shows_the_beginning_of_a_text_in_any_script(text):
    (shown,) = excerpts(pd.DataFrame({"label": ["a"], "text": [text]}))
    line, shown = " ".join(text.split()), shown.removeprefix("(a) ")
    assert len(shown) <= 70 and line.startswith(shown.removesuffix(" …"))
    assert shown == line or len(shown) > 35


def test_a_vector_of_zeros_is_similar_to_nothing():
    rows, cosines = nearest(np.zeros((1, 2)), np.eye(2), 2)
    assert rows.tolist() == [[0, 1]] and not cosines.any()


# sentence-transformers


def test_the_files_have_the_format_of_sentence_transformers():
    """As its own `save` writes them, for all versions since 2."""
    files = sentence_transformers_files(width=768, max_len=128)
    assert [(m["idx"], m["name"], m["path"], m["type"]) for m in files["modules.json"]] == [
        (0, "0", "", "sentence_transformers.models.Transformer"),
        (1, "1", "1_Pooling", "sentence_transformers.models.Pooling"),
    ]
    pooling = files["1_Pooling/config.json"]
    assert pooling.pop("word_embedding_dimension") == 768
    assert [name for name, used in pooling.items() if used] == ["pooling_mode_mean_tokens"]
    assert files["sentence_bert_config.json"]["max_seq_length"] == 128
    assert files["sentence_bert_config.json"]["do_lower_case"] is False  # the tokenizer does that


def test_modules_json_is_written_last(run_folder, monkeypatch):
    """It makes the folder a model of sentence-transformers, so the rest must be complete."""
    folder, opened = run_folder / "model", []
    import mlm.inference.vectors as vectors

    original = vectors.write_text
    monkeypatch.setattr(
        vectors, "write_text", lambda path, text: (opened.append(path.name), original(path, text))
    )
    assert write_sentence_transformers(folder, 16)[-1] == opened[-1] == "modules.json"
    assert all((folder / name).is_file() for name in sentence_transformers_files(32, 16))


def test_transformers_and_the_run_are_as_before(run_folder, model, word_tokenizer, text):
    folder = run_folder / "model"
    before = sorted(path.name for path in folder.iterdir())
    write_sentence_transformers(folder, 16)
    write_sentence_transformers(folder, 16)  # again: nothing changes
    added = {path.name for path in folder.iterdir()} - {*before}
    assert added == {"modules.json", "1_Pooling", "sentence_bert_config.json"}
    find_run(run_folder.parent, run_folder.name)  # no file counts as damaged
    loaded = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text)["input_ids"] == word_tokenizer(text)["input_ids"]
    assert pipeline("fill-mask", model=str(folder), device="cpu")("a [MASK] will")


def test_folders_in_model_are_no_files_of_the_run(run_folder):
    """04 can write its results again after 05 and 07 have added folders to model/."""
    write_sentence_transformers(run_folder / "model", 16)
    files = output_files(run_folder)
    assert all((run_folder / name).is_file() for name in files)


@pytest.mark.fault
def test_files_that_cannot_be_written_are_an_error_of_one_line(run_folder):
    (run_folder / "model" / "1_Pooling").write_text("a file, not a folder")
    with refused("1_Pooling", "could not be written"):
        write_sentence_transformers(run_folder / "model", 16)
    assert not (run_folder / "model" / "modules.json").exists()


@pytest.mark.fault
def test_without_a_run_there_is_no_folder_for_the_files():
    check_sentence_transformers(False, trained=False)
    check_sentence_transformers(True, trained=True)
    with refused("sentence_transformers=True", "there is no run", "04_train.ipynb"):
        check_sentence_transformers(True, trained=False)


TEXTS = [
    "good",
    "the will to power " * 40,  # longer than max_len
    "beyond good and evil",
    "[MASK] and [SEP] <mask> </s> in a text",
    "Größe 語語 🙂",
    "",
]


@pytest.mark.parametrize("added", [[], ["[USER]"]])
@pytest.mark.parametrize("kind", CONFIGS)
def test_sentence_transformers_computes_the_same_vectors(kind, added, corpus_folder, tmp_path):
    package = pytest.importorskip("sentence_transformers")  # in tests/requirements.txt
    tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    make_model(kind, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_sentence_transformers(tmp_path, 16)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    ours = text_vectors(model, AutoTokenizer.from_pretrained(tmp_path), TEXTS, 16)
    loaded = package.SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.max_seq_length == 16
    assert np.allclose(ours, loaded.encode(TEXTS), atol=1e-5)
    assert np.allclose(ours[0], loaded.encode(TEXTS[0]), atol=1e-5)  # alone, without padding
    assert len(np.unique(ours.round(3), axis=0)) == len(TEXTS)  # different texts, different vectors


def test_a_copy_of_the_folder_works_elsewhere(run_folder, tmp_path):
    """The files name no folder."""
    write_sentence_transformers(run_folder / "model", 16)
    copied = shutil.copytree(run_folder / "model", tmp_path / "elsewhere")
    for name in sentence_transformers_files(32, 16):
        assert str(run_folder.parent) not in (copied / name).read_text()
        json.loads((copied / name).read_text())


def test_the_end_of_a_huge_text_is_not_even_tokenized(word_tokenizer, monkeypatch):
    """Otherwise each step of a fine-tuning would tokenize whole books."""
    text, given = "good evil will to power " * 100_000, []
    expected = to_batch(word_tokenizer, [text[:10_000]], 16)
    call = type(word_tokenizer).__call__

    def counting(self, texts, *arguments, **options):
        given.extend(map(len, texts))
        return call(self, texts, *arguments, **options)

    monkeypatch.setattr(type(word_tokenizer), "__call__", counting)
    batch = to_batch(word_tokenizer, [text, "good"], 16)
    assert max(given) < 10_000
    assert batch["input_ids"][0].tolist() == expected["input_ids"][0].tolist()
