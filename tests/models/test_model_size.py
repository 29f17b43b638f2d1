"""Sizes in config.json: impossible ones, and ones that no memory holds, are refused before a model is built."""

import json
import time

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, BertConfig, DistilBertConfig

from encoders import CONFIGS, make_model
from helpers import peak_memory, refused
from mlm.models import model_size
from mlm.models.configs import load_config
from mlm.models.model_size import MANY_LAYERS, count_weights, host_memory

SIZES = dict(vocab_size=90, hidden_size=32, num_attention_heads=2, intermediate_size=64)


def write_config(folder, **values):
    config = BertConfig(**SIZES, num_hidden_layers=2).to_dict() | values
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")  # intact, and never used
    return str(folder)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_number_of_weights_is_known_without_building_them(kind, tokenizer):
    model = make_model(kind, tokenizer)
    assert count_weights(model.config) == model.num_parameters()


@pytest.mark.parametrize("config_class", [BertConfig, DistilBertConfig])
def test_many_layers_are_counted_by_their_difference(config_class):
    layers = MANY_LAYERS + 3
    config = config_class(**{"dim": 8, "n_heads": 2, "hidden_dim": 8} if config_class is DistilBertConfig else
                          {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8})  # fmt: skip
    config.vocab_size = 30
    config.num_hidden_layers = layers
    assert count_weights(config) == AutoModelForMaskedLM.from_config(config).num_parameters()


@pytest.mark.fault
@pytest.mark.parametrize("prefix", ["", "scratch:"])
@pytest.mark.parametrize(
    "entry, value",
    [
        ("hidden_size", 32 * 10**6),
        ("intermediate_size", 10**9),
        ("max_position_embeddings", 10**9),
        ("vocab_size", 10**9),
    ],
)
def test_a_model_that_no_memory_holds_is_refused_at_once(tmp_path, prefix, entry, value):
    model = prefix + write_config(tmp_path, **{entry: value, "pad_token_id": 5})
    if prefix and entry == "vocab_size":  # the tokenizer's replaces it
        assert load_config(model).vocab_size == value
        return
    start, memory = time.monotonic(), peak_memory()
    with refused("does not fit into memory", f'"{entry}": {value}', "GB", "this computer has"):
        load_config(model)
    assert time.monotonic() - start < 5 and peak_memory() - memory < 2**30


@pytest.mark.fault
@pytest.mark.parametrize("prefix", ["", "scratch:"])
@pytest.mark.parametrize(
    "entry, value, valid",
    [
        ("hidden_size", 0, "at least 1"),
        ("hidden_size", -32, "at least 1"),
        ("num_hidden_layers", 0, "1 to 1,000"),
        ("num_hidden_layers", 10_000, "1 to 1,000"),
        ("num_attention_heads", 0, "at least 1"),
        ("intermediate_size", 0, "at least 1"),
        ("max_position_embeddings", -1, "at least 1"),
    ],
)
def test_an_impossible_size_is_refused_with_its_valid_range(tmp_path, prefix, entry, value, valid):
    model = prefix + write_config(tmp_path, **{entry: value})
    with refused(f"model={model!r}: {entry} must be {valid} in its config.json, got {value}"):
        load_config(model)


def test_an_entry_is_named_as_its_kind_of_model_writes_it(tmp_path):
    config = DistilBertConfig(dim=32, n_heads=2, hidden_dim=64, n_layers=2).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"dim": -32}))
    with refused(": dim must be at least 1 in its config.json, got -32"):
        load_config(f"scratch:{tmp_path}")


@pytest.mark.parametrize("content, limits", [("1000000\n", True), ("max\n", False), (None, False)])
@pytest.mark.parametrize(
    "group, file",
    [
        ("", "memory.max"),  # of a container
        ("0::/slurm/job_7/step_0", "slurm/job_7/step_0/memory.max"),
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("5:cpu:/a\n4:memory,pids:/job_7", "memory/job_7/memory.limit_in_bytes"),
        ("4:memory:/docker/7", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_memory_limit_of_a_container_or_job_counts(
    tmp_path, monkeypatch, content, limits, group, file
):
    (tmp_path / "groups").write_text(group)
    monkeypatch.setattr(model_size, "CGROUPS", str(tmp_path / "groups"))
    paths = {"": ("", "memory.max"), "memory": ("/memory", "memory.limit_in_bytes")}
    monkeypatch.setattr(
        model_size, "CGROUP_LIMITS", {k: (f"{tmp_path}{f}", n) for k, (f, n) in paths.items()}
    )
    plain = host_memory()
    if content:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert host_memory() == (1_000_000 if limits else plain)
