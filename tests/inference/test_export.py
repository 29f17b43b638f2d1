"""The ONNX export gives the same model for batches of any size, or no file at all."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import RobertaForMaskedLM

import mlm.inference.export
from encoders import CONFIGS, OTHERS, make_model, make_tokenizer
from helpers import refused
from mlm.inference.export import REQUIRED_PACKAGES, check_onnx, export_onnx

SAME_AS_ROBERTA = {"camembert", "xlm-roberta"}  # verified below; not exported, which takes seconds
LAYERS = {  # one layer exports twice as fast as two
    "distilbert": {"n_layers": 1},
    "modernbert": {"num_hidden_layers": 2},  # one with global and one with local attention
}


@pytest.fixture
def save_model(corpus_folder, tmp_path):
    """A function that saves a small model of a given type; it returns the folder and the model."""

    def save(model_type):
        torch.set_num_threads(1)
        tokenizer = make_tokenizer(model_type, corpus_folder / "train.txt")
        layers = LAYERS.get(model_type, {"num_hidden_layers": 1})
        model = make_model(model_type, tokenizer, **layers).eval()
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model", model

    return save


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted({*CONFIGS, *OTHERS} - SAME_AS_ROBERTA))
@torch.no_grad()
def test_onnx_logits_equal_those_of_the_model_for_batches_of_any_size(save_model, model_type):
    folder, model = save_model(model_type)
    path, difference = export_onnx(folder)
    assert difference < 1e-4
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    source_folders = str(Path(torch.__file__).parents[1]), str(Path.cwd()), str(Path.home())
    assert not [name for name in source_folders if name.encode() in path.read_bytes()]
    session = onnxruntime.InferenceSession(path)
    for rows, tokens in (1, 3), (5, 40):
        ids = torch.randint(len(model.get_input_embeddings().weight), (rows, tokens))
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 + 1 :] = 0
        (logits,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        expected = model(ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(logits[mask > 0], expected[mask > 0], atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(SAME_AS_ROBERTA))
@torch.no_grad()
def test_models_that_copy_roberta_export_like_roberta(save_model, model_type):
    """Loaded as RoBERTa, they have the same logits, so the same forward pass is exported."""
    folder, model = save_model(model_type)
    as_roberta = RobertaForMaskedLM.from_pretrained(folder).eval()
    ids = torch.randint(len(model.get_input_embeddings().weight), (2, 20))
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    logits = as_roberta(ids, attention_mask=mask).logits
    assert torch.equal(logits, model(ids, attention_mask=mask).logits)


@pytest.mark.fault
def test_an_exported_file_with_different_logits_is_not_kept(save_model, monkeypatch):
    folder, model = save_model("bert")

    def write_some_file(model, f, **options):
        f.write_bytes(b"a model")

    def wrong_logits(path, batch):
        with torch.no_grad():
            return model(**batch).logits + 0.01

    monkeypatch.setattr(torch.onnx, "export", write_some_file)
    monkeypatch.setattr(mlm.inference.export, "clear_metadata", lambda path: None)
    monkeypatch.setattr(mlm.inference.export, "onnx_logits", wrong_logits)
    with refused("onnx=True", "logits of the exported model differ by 0.01", "not kept"):
        export_onnx(folder)
    assert not any((folder / "onnx").iterdir())


@pytest.mark.fault
def test_an_export_that_fails_in_torch_is_an_error_of_one_line(save_model, monkeypatch):
    folder, _ = save_model("bert")

    def fail(*_, **__):
        raise RuntimeError("Failed to decompose the FX graph.\nFirst of many lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with refused("onnx=True", "could not be exported", "decompose", "model/ is complete"):
        export_onnx(folder)


@pytest.mark.fault
@pytest.mark.parametrize("missing", REQUIRED_PACKAGES)
def test_a_missing_package_is_named_only_if_an_export_is_requested(monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        mlm.inference.export, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    check_onnx(False)
    with refused("onnx=True", f"pip install {missing}"):
        check_onnx(True)


@pytest.mark.fault
def test_without_a_trained_model_there_is_nothing_to_export():
    check_onnx(False, trained=False)
    with refused("onnx=True", "there is no run"):
        check_onnx(True, trained=False)
