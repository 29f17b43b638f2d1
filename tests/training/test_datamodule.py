"""MaskedLMData: every process, device, start and accumulation sees the same examples and masks."""

import math
import pickle
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import unpack_examples
from mlm.data.batches import MaskedBatches
from mlm.training.datamodule import PREFETCHED_BATCHES, MaskedLMData
from small_runs import same_batches


def trainer_at(step, rank=0, world_size=1, device="cpu"):
    """The part of a Trainer at this step that MaskedLMData uses."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world_size, strategy=strategy
    )


def examples_of(batches):
    """The examples of several batches with their labels, sorted."""
    return sorted(example for batch in batches for example in unpack_examples(batch))


# training batches


@pytest.mark.parametrize("start", [0, 1, 44, 45, 46, 50])
def test_a_resumed_run_gets_the_remaining_batches(make_data, start):
    data = make_data()
    all_batches = list(data.train_batches())
    assert len(all_batches) == 50
    assert same_batches(data.train_batches(start), all_batches[start:])
    data.trainer = trainer_at(start)
    assert same_batches(data.train_dataloader(), all_batches[start:])


def test_it_can_be_pickled_as_the_launcher_for_several_tpu_cores_does(make_data):
    data = make_data()
    assert same_batches(pickle.loads(pickle.dumps(data)).train_batches(), data.train_batches())


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_split_the_batches_of_one(make_data, world_size):
    """The batches of one process that takes as many examples, with the same masks."""
    data, start = make_data(), 13
    parts = [list(data.train_batches(start, rank, world_size)) for rank in range(world_size)]
    whole = list(make_data(8 * world_size).train_batches(start))
    assert len({tuple(batch["input_ids"].shape) for part in parts for batch in part}) == 1
    for batch, *split in zip(whole, *parts, strict=True):
        assert examples_of(split) == examples_of([batch])
        assert {float(part["num_masked"]) for part in split} == {float(batch["num_masked"])}
    for rank, part in enumerate(parts):
        data.trainer = trainer_at(start, rank, world_size)
        assert same_batches(data.train_dataloader(), part)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("start", [0, 3, 12])
def test_gradient_accumulation_splits_the_batch_of_a_step(dataset, world_size, start):
    """Also the last batch of an epoch, with 8 examples: some parts have one, or none."""
    parts_per_process = 4 // world_size
    split = MaskedLMData(dataset, dataset, 4, 0.15, 0, 14, accumulate=parts_per_process)
    whole = list(MaskedLMData(dataset, dataset, 16, 0.15, 0, 14).train_batches(start))
    processes = [list(split.train_batches(start, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in processes} == {parts_per_process * len(whole)}
    for step, large in enumerate(whole):
        of_step = slice(step * parts_per_process, (step + 1) * parts_per_process)
        small = [batch for batches in processes for batch in batches[of_step]]
        assert examples_of(small) == examples_of([large])
        masked = torch.stack([batch["num_masked"] for batch in small])
        assert (masked * parts_per_process == large["num_masked"]).all()
        counts = {(batch["num_tokens"], batch["num_examples"]) for batch in small}
        assert counts == {(large["num_tokens"], large["num_examples"])}


# validation batches


def test_masked_validation_tokens_depend_only_on_text_tokenizer_and_seed(make_data):
    """So the validation losses of two runs can be compared."""

    def masked_examples(world_size=1, **options):
        data = make_data(**options)
        return examples_of(
            batch
            for rank in range(world_size)
            for batch in data.validation_batches(rank, world_size)
        )

    expected = masked_examples()
    assert len(expected) == 40
    for options in (
        {"mlm_probability": 0.5},
        {"batch_size": 1},
        {"batch_size": 64},
        {"world_size": 3},
    ):
        assert masked_examples(**options) == expected
    tokens = sum(len(ids) - 2 for ids, _ in expected)
    masked = sum(label != -100 for _, labels in expected for label in labels)
    assert abs(masked / tokens - 0.15) < 5 * math.sqrt(0.25 * 40) / tokens  # rounded per example


@pytest.mark.parametrize("options", [{"masking": "word"}, {"replace": "100/0/0"}])
def test_validation_masks_do_not_depend_on_how_training_masks(dataset, options):
    one, other = (
        MaskedLMData(dataset, dataset, 40, 0.3, 0, 5, **chosen) for chosen in ({}, options)
    )
    assert same_batches(one.validation_batches(), other.validation_batches())
    assert not same_batches(one.train_batches(), other.train_batches())


# loaders


@pytest.fixture
def gpu_data(make_data, monkeypatch):
    """A function that returns MaskedLMData for a pretended GPU; pinned tensors have the class Pinned."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))

    def make(step=0, **options):
        data = make_data(**options)
        data.trainer = trainer_at(step, device="cuda:1")
        return data

    return make


class Pinned(torch.Tensor):
    """A tensor in (pretended) pinned memory."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_a_batch_is_reported_before_it_is_raised(gpu_data, monkeypatch, device):
    def broken(*_):
        raise IndexError("a bad example")

    reported = []
    data = gpu_data()
    data.on_error = reported.append
    data.trainer = trainer_at(0, device=device)
    monkeypatch.setattr("mlm.data.batches.padded_examples", broken)
    with pytest.raises(IndexError):
        list(data.train_dataloader())
    assert isinstance(reported[0], IndexError)


@pytest.mark.parametrize("start", [0, 44])
def test_prefetched_batches_are_the_same_and_pinned(gpu_data, start):
    data = gpu_data(start)
    batches = list(data.train_dataloader())
    assert same_batches(batches, data.train_batches(start))
    assert {type(part) for batch in batches for part in batch.values()} == {Pinned, int}


def test_the_next_batches_are_prepared_while_a_gpu_computes(gpu_data, monkeypatch):
    """By a thread that ends with the loop, also if it is left early; no prepared batch is lost."""
    prepared, batches = [], MaskedBatches.__iter__
    monkeypatch.setattr(
        MaskedBatches, "__iter__", lambda data: (prepared.append(1) or b for b in batches(data))
    )
    earlier = set(threading.enumerate())  # other tests' threads may end meanwhile
    data, seen = gpu_data(), []
    loader = iter(data.train_dataloader())
    for number, one in zip(range(1, 6), loader):
        seen.append(one)
        end = time.monotonic() + 20
        while len(prepared) < number + PREFETCHED_BATCHES:  # the GPU computes
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(prepared) == number + PREFETCHED_BATCHES
    assert set(threading.enumerate()) - earlier
    loader.close()
    assert not set(threading.enumerate()) - earlier
    assert same_batches(seen, islice(data.train_batches(), 5))
    data.trainer = trainer_at(5, device="cuda")
    assert same_batches(islice(data.train_dataloader(), 5), islice(data.train_batches(5), 5))


def test_all_batches_have_one_shape(make_data):
    data = make_data()
    for batches in (data.train_batches(), data.validation_batches()):
        shapes = {
            tuple(np.shape(batch[name]) for name in ("input_ids", "positions")) for batch in batches
        }
        assert len(shapes) == 1
