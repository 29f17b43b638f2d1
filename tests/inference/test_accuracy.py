"""Accuracy by frequency adds up to the accuracy of the evaluation."""

import pytest
from transformers import BertTokenizer

from encoders import make_model
from mlm.data.dataset import MaskedLMDataset
from mlm.inference.accuracy import accuracy_by_frequency
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM


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
    bands, total = table.drop("all"), table.loc["all"]
    assert bands["masked tokens"].sum() == total["masked tokens"] == num_masked and len(bands) > 1
    mean = (bands["a"] * bands["masked tokens"]).sum() / num_masked
    assert total["a"] == pytest.approx(mean)
    assert evaluate(MaskedLM(bert, {}), batches)["accuracy"] == pytest.approx(mean)


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
    results_of, corpus_folder, tokenizer, bert
):
    workdir, results = corpus_folder.parents[1], results_of(corpus_folder)
    table = accuracy_by_frequency({"a": bert}, tokenizer, results, workdir)
    accuracy = table.drop("all")["most frequent token"]
    assert accuracy.iloc[-1] > 0 and (accuracy.iloc[:-1] == 0).all()
