"""The ONNX export: the same model for batches of any size, or no file at all."""

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch

import mlm.inference.export
from encoders import CONFIGS, OTHERS, make_model, make_tokenizer
from helpers import refused
from mlm.inference.export import check_onnx, export_onnx


@pytest.fixture
def saved(corpus_folder, tmp_path):
    """A function: the folder of a small model of a kind, and the model."""

    def save(kind):
        torch.set_num_threads(1)
        tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
        bert = make_model(kind, tokenizer).eval()
        for part in (bert, tokenizer):
            part.save_pretrained(tmp_path / "model")
        return tmp_path / "model", bert

    return save


@pytest.mark.parametrize("kind", sorted([*CONFIGS, *OTHERS]))
@torch.no_grad()
def test_its_logits_are_the_models_for_batches_of_any_size(saved, kind):
    folder, bert = saved(kind)
    path, difference = export_onnx(folder)
    assert difference < 1e-4
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path)
    for rows, tokens in (1, 3), (5, 40):
        ids = torch.randint(len(bert.get_input_embeddings().weight), (rows, tokens))
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 + 1 :] = 0
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        expected = bert(ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=1e-4)


@pytest.mark.fault
def test_a_file_that_is_another_model_is_not_kept(saved, monkeypatch):
    folder, _ = saved("bert")
    right = mlm.inference.export.logits_of
    monkeypatch.setattr(mlm.inference.export, "logits_of", lambda *given: right(*given) + 0.01)
    with refused("onnx=True", "logits differ by 0.01", "not kept"):
        export_onnx(folder)
    assert not any((folder / "onnx").iterdir())


@pytest.mark.fault
def test_what_torch_cannot_export_is_one_line(saved, monkeypatch):
    folder, _ = saved("bert")

    def fails(*_, **__):
        raise RuntimeError("Failed to decompose the FX graph.\nFirst of many lines")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with refused("onnx=True", "could not be exported", "decompose", "model/ is whole"):
        export_onnx(folder)


@pytest.mark.fault
@pytest.mark.parametrize("missing", mlm.inference.export.NEEDED)
def test_a_package_that_is_not_installed(monkeypatch, missing):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        mlm.inference.export, "find_spec", lambda name: None if name == missing else there(name)
    )
    check_onnx(False)
    with refused("onnx=True", f"pip install {missing}"):
        check_onnx(True)


@pytest.mark.fault
def test_nothing_is_trained_yet():
    check_onnx(False, trained=False)
    with refused("onnx=True", "no run is there"):
        check_onnx(True, trained=False)
