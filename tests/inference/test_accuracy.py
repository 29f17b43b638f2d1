"""Accuracy by frequency adds up to the accuracy of the evaluation, and copies do not count."""

import numpy as np
import pytest
import torch.nn.functional as F
from transformers import BertTokenizer

from encoders import make_model
from mlm.data.dataset import MaskedLMDataset
from mlm.inference.accuracy import SHOWN, accuracy_by_frequency
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM
from texts import ANIMALS, PLACES, VERBS


def test_accuracy_by_frequency_adds_up_to_the_validation_accuracy(
    results_of, corpus_folder, tokenizer, bert
):
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    data = MaskedLMData(
        train=valid, valid=valid, batch_size=32, mlm_probability=0.15, seed=3, total_steps=0
    )
    batches = list(data.validation_batches())
    num_masked = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    bands, shown = table.loc["[MASK]"].drop("all"), table.xs("all", level=1).drop("all")
    total = table.loc[("all", "all")]
    assert len(bands) > 1 and list(shown.index) == list(SHOWN)
    for parts, whole in [(bands, shown.loc["[MASK]"]), (shown, total)]:
        assert parts["masked tokens"].sum() == whole["masked tokens"]
        mean = (parts["a"] * parts["masked tokens"]).sum() / whole["masked tokens"]
        assert whole["a"] == pytest.approx(mean)
    assert total["masked tokens"] == num_masked
    accuracy = evaluate(MaskedLM(bert, {}), batches)["accuracy"]
    assert accuracy == pytest.approx(total["a"]) and accuracy > 0


def test_a_model_that_only_copies_is_right_only_where_the_token_itself_is_shown(
    results_of, corpus_folder, tokenizer, bert, monkeypatch
):
    def copy(module, batch):
        ids = batch["input_ids"].flatten()[batch["positions"]]
        return F.one_hot(ids, len(tokenizer)).float()

    monkeypatch.setattr(MaskedLM, "masked_logits", copy)
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    assert (table.loc["[MASK]", "a"] == 0).all()
    right = table.xs("all", level=1)["a"]
    assert right["a random token"] == 0 and right["the token itself"] == 1
    assert right["all"] == pytest.approx(0.1, abs=0.05)


def test_accuracy_by_frequency_works_with_a_vocabulary_of_letters(results_of, corpus_folder):
    """Of less than 100 tokens, like the amino acids of ESM: -100 is no index then."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *letters]
    tokens += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    model = make_model("bert", tokenizer, num_hidden_layers=1).eval()
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": model}, tokenizer, results, workdir)
    assert len(tokenizer) < 100 and table["masked tokens"].sum() > 0


def test_the_most_frequent_token_is_right_only_in_the_last_band(
    results_of, corpus_folder, tokenizer, bert, capsys
):
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    accuracy = table.loc["[MASK]"].drop("all")["most frequent token"]
    assert accuracy.iloc[-1] > 0 and (accuracy.iloc[:-1] == 0).all()
    train = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
    token = tokenizer.convert_ids_to_tokens(np.bincount(train.ids).argmax().item())
    assert f"most frequent token: {token!r}" in capsys.readouterr().out


def test_the_most_frequent_token_is_one_that_can_be_predicted(results_of, prose_corpus, capsys):
    """[UNK] may be more frequent, but it is never a prediction target."""
    words = ["often", "never", "the", "old", *ANIMALS, *VERBS, *PLACES]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    tokenizer.name_or_path = "a model"
    model = make_model("bert", tokenizer, num_hidden_layers=1).eval()
    train = MaskedLMDataset(prose_corpus / "train.txt", tokenizer, 32)
    assert np.bincount(train.ids).argmax() == tokenizer.unk_token_id
    workdir, results = prose_corpus.parents[1], results_of(prose_corpus)
    table = accuracy_by_frequency({"a": model}, tokenizer, results, workdir)
    assert "[UNK]" not in capsys.readouterr().out
    assert table.loc[("all", "all"), "most frequent token"] > 0
