"""Weights of 8 bits: a quarter of the size, and what they cost is measured on the run's own masks."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import mlm.inference.quantize
from mlm.data.dataset import MaskedLMDataset
from mlm.inference.export import export_onnx, onnx_logits
from mlm.inference.quantize import (
    describe_quantization,
    masked_rows,
    most_likely_tokens,
    quantize_onnx,
)


@pytest.fixture
def corpus_results(corpus_folder):
    """The parts of run.json that say which corpus, and how it was masked."""
    sha256 = json.loads((corpus_folder / "corpus.json").read_text())["sha256"]
    return {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": sha256}}


def test_rows_are_the_masked_validation_examples(tokenizer, corpus_results, corpus_folder):
    rows = list(masked_rows(tokenizer, corpus_results, corpus_folder))
    assert 20 < len(rows) <= 40
    for ids, labels in rows:
        assert ids.shape == labels.shape and ids.shape[0] == 1 and ids.shape[1] <= 32
        assert ids[0, 0] == tokenizer.cls_token_id and ids[0, -1] == tokenizer.sep_token_id
        assert (labels != -100).any() and tokenizer.pad_token_id not in ids


def test_a_large_validation_set_is_thinned_out(
    tokenizer, corpus_results, corpus_folder, monkeypatch
):
    count = len(list(masked_rows(tokenizer, corpus_results, corpus_folder)))
    monkeypatch.setattr(mlm.inference.quantize, "MEASURED_TOKENS", 1)
    assert 0 < len(list(masked_rows(tokenizer, corpus_results, corpus_folder))) < count


def test_tokens_that_are_cut_off_are_not_counted(
    tokenizer, corpus_results, corpus_folder, monkeypatch
):
    corpus_results["parameters"]["max_len"] = 6
    every = len(list(masked_rows(tokenizer, corpus_results, corpus_folder)))
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 6)
    assert valid.lengths.sum() < 0.6 * len(valid.ids)
    monkeypatch.setattr(mlm.inference.quantize, "MEASURED_TOKENS", 0.15 * valid.lengths.sum())
    assert len(list(masked_rows(tokenizer, corpus_results, corpus_folder))) == every


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_loss_of_accuracy_is_always_said(
    tokenizer, corpus_results, corpus_folder, tmp_path, monkeypatch, wrong
):
    def answers(path, rows):
        found = np.concatenate([labels[labels != -100] for _, labels in rows])
        return found + wrong if path.name == "small" else found

    monkeypatch.setattr(mlm.inference.quantize, "most_likely_tokens", answers)
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"x" * 4_000_000)
    small.write_bytes(b"x" * 1_000_000)
    workdir = corpus_folder.parents[1]
    text = describe_quantization(large, small, tokenizer, corpus_results, workdir)
    assert "4.0 MB become 1.0 MB (25.0%)" in text
    assert f"100.00% with 32 bits, {100 * (1 - wrong):.2f}% with 8 bits" in text
    assert ("loses more than" in text) == bool(wrong)


def test_without_the_corpus_the_accuracy_is_said_to_be_unknown(tokenizer, tmp_path):
    for name in ("large", "small"):
        (tmp_path / name).write_bytes(b"x" * 100)
    results = {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": "0" * 64}}
    text = describe_quantization(
        tmp_path / "large", tmp_path / "small", tokenizer, results, tmp_path
    )
    assert "not measured" in text


@pytest.mark.slow
def test_the_file_has_less_than_30_percent_of_the_size_and_nearly_the_same_logits(
    tmp_path, tokenizer
):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4000, hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=512, initializer_range=0.1,
    )  # fmt: skip
    folder = tmp_path / "model"
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path, _ = export_onnx(folder, "page")
    quantized = quantize_onnx(path, tmp_path / "page" / "model.onnx")
    assert [file.name for file in quantized.parent.iterdir()] == ["model.onnx"]
    assert quantized.stat().st_size < 0.3 * path.stat().st_size
    ids = torch.randint(300, (2, 20))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits, rounded = onnx_logits(path, batch), onnx_logits(quantized, batch)
    assert 0 < (logits - rounded).abs().mean() < 0.05 * logits.std()
    rows = [(ids[:1].numpy(), np.where(np.arange(20) % 3, -100, 1)[None])]
    assert (most_likely_tokens(path, rows) == logits[0, ::3].argmax(-1).numpy()).all()
