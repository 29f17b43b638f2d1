"""Folders that are no complete model: one line says what is missing and where to get it."""

import json
import shutil

import pytest
import torch
from transformers import BertModel

from encoders import make_model
from helpers import refused
from mlm.data.tokenizer import load_tokenizer
from mlm.models.loading import load_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A small pretrained BERT and its tokenizer."""
    folder = tmp_path / "my_bert"
    make_model("bert", tokenizer, num_hidden_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def assert_refused(folder, tokenizer, *words, only_model=False):
    """The functions that read a model refuse the folder with a line that contains these words.

    only_model: the folder has a tokenizer that can be loaded.
    """
    if only_model:
        load_tokenizer(str(folder), None)
    for load in (load_model,) if only_model else (load_tokenizer, load_model):
        with refused(f"model={str(folder)!r} ", *words):
            load(str(folder), tokenizer)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


# without config.json


@pytest.mark.fault
def test_an_adapter_is_refused_with_its_base_model(tokenizer, tmp_path):
    config = {"base_model_name_or_path": "bert-base-uncased", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\2" + bytes(7) + b"{}")
    words = "adapter (LoRA) of 'bert-base-uncased'", "merge_and_unload()", "pass the folder"
    assert_refused(tmp_path, tokenizer, *words)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # some adapters have one
    tokenizer.save_pretrained(tmp_path)
    assert_refused(tmp_path, tokenizer, *words, only_model=True)


@pytest.mark.fault
@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize(
    "name, kind",
    [
        ("tf_model.h5", "TensorFlow weights"),
        ("bert_model.ckpt.index", "TensorFlow checkpoint"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.gguf", "GGUF file"),
        ("onnx/model.onnx", "ONNX file"),
    ],
)
def test_weights_of_other_programs_are_named(folder, tokenizer, name, kind, with_config):
    (folder / WEIGHTS).unlink()
    if not with_config:
        (folder / "config.json").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"weights")
    assert_refused(folder, tokenizer, kind, "no PyTorch weights", WEIGHTS, only_model=True)


@pytest.mark.fault
def test_a_folder_of_models_is_refused_with_the_newest(folder, tokenizer):
    """The output folder of a Trainer, of several runs, of sentence-transformers, of the Hub's cache."""
    parent = folder.parent / "parent"
    for name in ("checkpoint-90", "checkpoint-500"):
        shutil.copytree(folder, parent / name)
    assert_refused(parent, tokenizer, "checkpoint-90", f"such as {parent / 'checkpoint-500'}")
    for name in ("run/model", "0_Transformer", "snapshots/ab12"):
        shutil.rmtree(parent)
        shutil.copytree(folder, parent / name)
        (parent / "1_Pooling").mkdir()
        (parent / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
        assert_refused(parent, tokenizer, f"such as {parent / name}")


@pytest.mark.fault
def test_an_incomplete_folder_is_refused_with_what_it_lacks(folder, tokenizer, tmp_path):
    (folder / "config.json").unlink()
    assert_refused(folder, tokenizer, "weights but no config.json", "copy it", only_model=True)
    (folder / WEIGHTS).unlink()
    assert_refused(folder, tokenizer, "a tokenizer but no model", "copy them", only_model=True)
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", tokenizer, "is empty", "pass a folder that save_pretrained")
    (tmp_path / "empty/notes.txt").write_text("text")
    assert_refused(tmp_path / "empty", tokenizer, "only notes.txt", "pass a folder")
    (tmp_path / "empty/last.ckpt").write_text("text")
    assert_refused(tmp_path / "empty", tokenizer, "checkpoint of Lightning (last.ckpt)")


@pytest.mark.fault
def test_a_file_is_refused_with_its_folder(folder, tokenizer):
    for name in (WEIGHTS, "config.json"):
        assert_refused(
            folder / name, tokenizer, f"is a file; pass the folder that contains it, {folder}"
        )


# with config.json


@pytest.mark.fault
@pytest.mark.parametrize(
    "architectures, advice",
    [
        (["BertForMaskedLM"], '"model_type": "bert"'),
        (["XLMRobertaForMaskedLM"], '"model_type": "xlm-roberta"'),
        (["DebertaV2Model"], '"model_type": "deberta-v2"'),
        (None, '"model_type": "bert"'),  # Google's config.json
    ],
)
def test_a_missing_model_type_is_refused_with_what_to_add(folder, tokenizer, architectures, advice):
    """transformers would guess it from the folder's name."""
    config = config_of(folder) | {"architectures": architectures}
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, tokenizer, f"no model_type in its config.json; add {advice}")
    (folder / "config.json").write_text('{"hidden_size": 32}')
    assert_refused(folder, tokenizer, 'add "model_type" with the type, such as "bert"')


@pytest.mark.fault
def test_missing_and_truncated_weights_are_refused(folder, tokenizer):
    content = (folder / WEIGHTS).read_bytes()
    for size in (4, 100, len(content) // 2, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:size])
        assert_refused(
            folder,
            tokenizer,
            f"damaged file: {WEIGHTS}: ",
            "again",
            only_model=True,
        )
    (folder / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    )
    assert_refused(folder, tokenizer, "only a pointer of Git LFS", "git lfs pull", only_model=True)
    (folder / WEIGHTS).unlink()
    assert_refused(
        folder, tokenizer, "a config.json but no weights", f"copy {WEIGHTS}", only_model=True
    )
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").write_bytes(content)
    assert_refused(
        folder, tokenizer, "lacks model-00002-of-00002.safetensors (1 of 2 files", only_model=True
    )


def test_an_index_that_transformers_does_not_read_is_ignored(folder, tokenizer):
    """For example after downloading only *.json and *.safetensors."""
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    load_model(str(folder), tokenizer, 64)
    (folder / WEIGHTS).unlink()
    assert_refused(folder, tokenizer, "lacks pytorch_model-00001-of-00002.bin", only_model=True)


def test_complete_folders_of_every_form_are_loaded(folder, tokenizer):
    """Several files of weights, a pickle of tensors, the root of a sentence-transformers folder."""
    expected = load_model(str(folder), tokenizer, 64)
    expected.save_pretrained(folder / "sharded", max_shard_size="20KB")
    tokenizer.save_pretrained(folder / "sharded")
    (folder / WEIGHTS).unlink()
    torch.save(expected.state_dict(), folder / "pytorch_model.bin")
    assert len([*(folder / "sharded").glob("*.safetensors")]) > 1
    for path in (folder, folder / "sharded"):
        loaded = load_model(str(path), load_tokenizer(str(path), None), 64)
        for name, weight in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
    sentence_encoder = folder / "sentences"
    BertModel(expected.config).save_pretrained(sentence_encoder)
    tokenizer.save_pretrained(sentence_encoder)
    (sentence_encoder / "modules.json").write_text("[]")
    (sentence_encoder / "1_Pooling").mkdir()
    loaded = load_model(str(sentence_encoder), load_tokenizer(str(sentence_encoder), None), 64)
    assert loaded.head_was_missing


# the tokenizer


def remove_tokenizer(folder, names=("tokenizer.json", "tokenizer_config.json")):
    for name in names:
        (folder / name).unlink()


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "deberta-v2", "xlm-roberta"])
def test_a_folder_without_a_tokenizer_is_refused(folder, tokenizer, kind):
    """transformers would make one without words, and every word of a text would be [UNK]."""
    make_model(kind, tokenizer).save_pretrained(folder)
    remove_tokenizer(folder)
    words = "has no vocabulary", "copy tokenizer.json and tokenizer_config.json", "save_pretrained"
    with refused(f"model={str(folder)!r} ", *words):
        load_tokenizer(str(folder), None)


@pytest.mark.fault
def test_a_tokenizer_in_the_parent_folder_is_found(folder, tokenizer):
    """A Trainer's checkpoints do not always contain the tokenizer."""
    checkpoint = folder / "checkpoint-500"
    make_model("bert", tokenizer).save_pretrained(checkpoint)
    with refused(
        "has no vocabulary", f"copy tokenizer.json and tokenizer_config.json from {folder}"
    ):
        load_tokenizer(str(checkpoint), None)


@pytest.mark.fault
def test_the_settings_of_a_tokenizer_are_not_enough(folder):
    remove_tokenizer(folder, ["tokenizer.json"])
    with refused("has no vocabulary", "tokenizer.json"):
        load_tokenizer(str(folder), None)


# damaged files


@pytest.mark.fault
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "bytes", "list", "pointer"])
def test_a_damaged_json_file_is_named(folder, tokenizer, name, damage):
    content = (folder / name).read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "bytes": b"\xff\xfe\x00{",
        "list": b"[]",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    }[damage]
    (folder / name).write_bytes(damaged)
    assert_refused(
        folder, tokenizer, name, "git lfs pull" if damage == "pointer" else "copy it again"
    )


@pytest.mark.fault
@pytest.mark.parametrize(
    "entry", [{"hidden_size": "32"}, {"num_labels": "x"}, {"num_hidden_layers": None}]
)
def test_a_config_with_a_wrong_value_is_refused_with_the_reason(folder, tokenizer, entry):
    (folder / "config.json").write_text(json.dumps(config_of(folder) | entry))
    for load in (load_tokenizer, load_model):
        with refused("config", "not valid", "copy", "config.json"):
            load(str(folder), tokenizer)
