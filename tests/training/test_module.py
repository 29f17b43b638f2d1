"""Loss, gradients, metrics and the optimizer, held against BertForMaskedLM and plain loops."""

import copy
import json
import math
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from helpers import masked_loss, refused, unpack_examples
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH
from mlm.models.loading import load_model
from mlm.optim.schedule import SCHEDULES
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate, unigram_loss
from mlm.training.logging import TrainingLogger
from mlm.training.module import MaskedLM, reset_module
from mlm.training.seeded_dropout import SeededDropout

OPTIMIZER = dict(optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=20)


def first_batch(dataset, indices, p=0.15, rows=3, rank=0, world=1, shape=None):
    """The batch of these examples, in so many shared rows a process; with rows=None a row each."""
    indices, place = np.array(indices), None
    if rows:
        place = np.sort(np.arange(len(indices)) % (rows * world))
        longest = max(dataset.lengths[indices[place == row]].sum() + 40 for row in place)
        shape = shape or (rows, int(longest), 16 * len(indices))
    made = MaskedBatches(dataset, [], p, 0, shape, rank)
    return made.batch(0, indices, place)


@pytest.fixture
def blocks(corpus_folder, tokenizer):
    return MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32, "block")


@pytest.fixture
def module(bert):
    """A MaskedLM as Lightning has it while training with one process."""
    module = MaskedLM(bert, OPTIMIZER)
    module.trainer = SimpleNamespace(world_size=1, global_step=0, global_rank=0)
    return module


def gradients(model):
    """{name: gradient} of all weights; weights without one have zeros."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def dense(bert, dataset, indices, p=0.15):
    """Loss and gradients that BertForMaskedLM has for these examples, a row for each."""
    bert, batch = copy.deepcopy(bert), first_batch(dataset, indices, p, rows=None)
    mask = batch.get("sequence_ids")
    loss = bert(batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    loss.backward()
    return loss.item(), gradients(bert)


def stepped(module, batch):
    """Loss and gradients of the training step."""
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.item(), gradients(module.bert)


def close(found, expected, tolerance=2e-6):
    """Whether gradients agree, relative to the largest of each weight."""
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert (found[name] - one).abs().max() <= tolerance + tolerance * one.abs().max(), name


# the training step


PADDED, MANY, ONE = [0, 5, 9, 77, 200, 359], list(range(100, 140)), [3]


@pytest.mark.parametrize(
    "indices, options",
    [
        (PADDED, {"rows": None}),
        (PADDED, {"rows": 1}),
        (MANY, {"rows": 7}),
        (PADDED, {"rows": 9}),
        (PADDED, {"p": 0.6}),
        (ONE, {"p": 0.999, "rows": None}),
    ],
    ids=["rows", "one shared row", "shared rows", "empty rows", "60 %", "one example"],
)
def test_step_has_the_loss_and_gradients_of_bert(module, dataset, indices, options):
    batch = first_batch(dataset, indices, **options)
    assert ("sequence_ids" in batch) == (len(indices) > 1)
    loss, grads = stepped(module, batch)
    expected, theirs = dense(module.bert, dataset, indices, options.get("p", 0.15))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert loss > 1
    close(grads, theirs)
    assert grads["cls.predictions.bias"].abs().sum() > 0


@pytest.mark.parametrize("rows", [None, 2])
def test_step_on_blocks(module, blocks, rows):
    batch = first_batch(blocks, [0, 1, 2, 3], rows=rows)
    assert ("sequence_ids" in batch) == (rows == 2)
    loss, grads = stepped(module, batch)
    expected, theirs = dense(module.bert, blocks, [0, 1, 2, 3])
    assert loss == pytest.approx(expected, rel=1e-6)
    close(grads, theirs)


def test_padding_changes_nothing(module, dataset):
    """The same examples in batches of several shapes have one loss."""
    sums = [
        masked_loss(module, first_batch(dataset, [4, 5, 6], **how))[0].item()
        for how in ({"rows": 1}, {"rows": None}, {"rows": 2}, {"shape": (3, 128, 99)})
    ]
    alone = sum(masked_loss(module, first_batch(dataset, [i]))[0].item() for i in (4, 5, 6))
    assert sums == pytest.approx([alone] * 4, rel=1e-5)


@pytest.mark.parametrize("rows", [None, 3])
def test_a_batch_with_nothing_masked_is_no_nan(module, dataset, rows):
    batch = first_batch(dataset, PADDED, p=1e-9, rows=rows)
    assert batch["num_masked"] == 0
    loss, grads = stepped(module, batch)
    assert loss == 0
    assert all((grad == 0).all() for grad in grads.values())
    assert all(p.grad is not None for p in module.parameters())  # DDP waits for each of them


def test_logits_are_those_of_the_masked_positions(module, dataset):
    batch = first_batch(dataset, PADDED, rows=None)
    loss, logits, labels = masked_loss(module, batch)
    with torch.no_grad():
        whole = module.bert(batch["input_ids"], batch["sequence_ids"]).logits
    where = batch["labels"] != -100
    assert logits.shape == (int(batch["num_masked"]), whole.shape[2])
    torch.testing.assert_close(logits, whole[where], rtol=1e-5, atol=1e-5)
    assert (labels == batch["labels"][where]).all()
    expected = F.cross_entropy(whole[where], batch["labels"][where], reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_shares_of_several_processes_make_the_whole(module, dataset, world):
    """What the processes compute, averaged as DDP does, is the loss and gradient of the batch."""
    whole = first_batch(dataset, PADDED)
    expected, theirs = stepped(module, whole)
    module.trainer.world_size = world
    parts = [
        stepped(module, first_batch(dataset, PADDED, rows=2, rank=rank, world=world))
        for rank in range(world)
    ]
    assert sum(loss for loss, _ in parts) / world == pytest.approx(expected, rel=1e-5)
    mean = {name: sum(grads[name] for _, grads in parts) / world for name in theirs}
    close(mean, theirs)


def test_sums_are_what_was_seen_since_the_last_log_line(module, make_data):
    """The journal adds up on the device; a log line is their mean and starts anew."""
    data = make_data(stop=100)  # a line each 4 steps
    journal, made = TrainingLogger(data, 5.0), list(islice(data.train_batches(), 4))
    trainer = SimpleNamespace(
        global_step=0, is_global_zero=False, world_size=1, global_rank=0, loggers=[],
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )  # fmt: skip
    journal.on_train_start(trainer, module)
    (before,) = journal.state["history"]
    assert before["step"] == 0 and before["valid_loss"] > 1
    for batch in made:
        trainer.global_step += 1
        module.training_step(batch, 0)
        assert not module.seen.requires_grad
        journal.on_after_backward(trainer, module)
        journal.on_train_batch_end(trainer, module, None, batch, 0)
    loss = sum(masked_loss(module, batch)[0].item() for batch in made)
    count = sum(int(batch["num_masked"]) for batch in made)
    assert journal.state["history"][1]["train_loss"] == pytest.approx(loss / count, rel=1e-5)
    assert journal.state["history"][1]["step"] == 4 and journal.sums.tolist() == [0, 0]
    assert journal.state["tokens"] == sum(batch["num_tokens"] for batch in made)


def test_another_training_loss_leaves_the_held_out_loss_alone(module, dataset):
    """Whoever edits the training step in 04 can compare with what was there before."""

    class Edited(MaskedLM):
        def training_step(self, batch, batch_idx):
            return 7 * super().training_step(batch, batch_idx)

    edited, made = Edited(module.bert, OPTIMIZER), [first_batch(dataset, PADDED)]
    assert evaluate(edited, made) == evaluate(module, made)


def test_reset_puts_a_module_back(module, dataset):
    """Whatever was done to it: first weights, train mode, decoder and embedding one tensor."""
    start = {name: weight.clone() for name, weight in module.state_dict().items()}
    module.eval()
    predictions = module.bert.cls.predictions
    predictions.decoder.weight = torch.nn.Parameter(predictions.decoder.weight + 1)  # as on XLA
    reset_module(module, start)
    assert module.training and module.bert.training
    assert predictions.decoder.weight is module.bert.bert.embeddings.word_embeddings.weight
    assert all(torch.equal(weight, start[name]) for name, weight in module.state_dict().items())


@pytest.fixture
def make_data(dataset, corpus_folder, tokenizer):
    """A function that makes the MaskedLMData of so many steps; an epoch has 45 of them."""
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)

    def make(batch_size=8, p=0.15, stop=50, **how):
        return MaskedLMData(dataset, valid, batch_size, p, 0, stop, **how)

    return make


def equal(some, others):
    """Whether these are the same batches, bit by bit."""
    return all(
        one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
        for one, other in zip(some, others, strict=True)
    )


def trainer_at(step, rank=0, world=1, device="cpu"):
    """As much of a Trainer at this step as the data asks for."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    where = dict(global_rank=rank, world_size=world, strategy=strategy)
    return SimpleNamespace(global_step=step, **where)


@pytest.mark.parametrize("start", [0, 1, 44, 45, 46, 50])
def test_later_batches_are_the_tail_of_the_whole(make_data, start):
    """By hand, without a Trainer, and as the loader of a resumed Trainer gives them."""
    data = make_data()
    whole = list(data.train_batches())
    assert len(whole) == 50
    assert equal(data.train_batches(start), whole[start:])
    assert equal(data.train_dataloader(), whole)
    data.trainer = trainer_at(start)
    assert equal(data.train_dataloader(), whole[start:])


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_make_the_whole(make_data, world):
    """Example by example and mask by mask, the batches of one process that takes as many as all."""
    data, start = make_data(), 13
    shares = [list(data.train_batches(start, rank, world)) for rank in range(world)]
    whole = list(make_data(8 * world).train_batches(start))
    assert len({tuple(part["input_ids"].shape) for share in shares for part in share}) == 1
    for batch, *parts in zip(whole, *shares, strict=True):
        together = [example for part in parts for example in unpack_examples(part)]
        assert sorted(together) == sorted(unpack_examples(batch))
        assert {float(part["num_masked"]) for part in parts} == {float(batch["num_masked"])}
    for rank, share in enumerate(shares):
        data.trainer = trainer_at(start, rank, world)
        assert equal(data.train_dataloader(), share)


def test_held_out_questions_depend_on_text_tokenizer_and_seed_alone(make_data):
    """So the losses of two runs can be compared."""

    def questions(world=1, **how):
        shares = [list(make_data(**how).validation_batches(rank, world)) for rank in range(world)]
        return sorted(
            part for share in shares for batch in share for part in unpack_examples(batch)
        )

    expected = questions()
    assert len(expected) == 40
    ways = {"p": 0.5}, {"batch_size": 1}, {"batch_size": 64}, {"world": 3}
    assert all(questions(**how) == expected for how in ways)
    tokens = sum(len(ids) - 2 for ids, _ in expected)
    asked = sum(label != -100 for _, labels in expected for label in labels)
    assert abs(asked / tokens - 0.15) < 5 * math.sqrt(0.25 * 40) / tokens  # its share, rounded


def test_lightning_steps_the_schedule_each_step(module, make_data, tmp_path):
    class Rates(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.seen += [group["lr"] for group in trainer.optimizers[0].param_groups[:1]]

    rates, data = Rates(), make_data()
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=5, callbacks=[rates], default_root_dir=tmp_path,
        enable_checkpointing=False, **quiet,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert rates.seen == pytest.approx([1e-3 * SCHEDULES["linear"](n, 20) for n in range(5)])


def broken(*_):
    raise IndexError("a bad example")


@pytest.fixture
def on_a_gpu(make_data, monkeypatch):
    """A function that makes data as `make_data` does, for a pretended GPU; pinned tensors are noted."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))

    def make(step=0, **how):
        data = make_data(**how)
        data.trainer = trainer_at(step, device="cuda:1")
        return data

    return make


class Pinned(torch.Tensor):
    """A tensor of which the test knows that it was pinned."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_a_batch_is_told_before_it_is_raised(on_a_gpu, monkeypatch, device):
    told = []
    data = on_a_gpu(on_error=told.append)
    data.trainer = trainer_at(0, device=device)
    monkeypatch.setattr(MaskedLMDataset, "__getitem__", broken)
    with pytest.raises(IndexError):
        list(data.train_dataloader())
    assert isinstance(told[0], IndexError)


@pytest.mark.parametrize("start", [0, 44])
def test_batches_made_ahead_are_the_same_and_pinned(on_a_gpu, start):
    data = on_a_gpu(start)
    made = list(data.train_dataloader())
    assert equal(made, data.train_batches(start))
    assert {type(part) for batch in made for part in batch.values()} == {Pinned, int}


def test_while_a_gpu_computes_the_next_two_batches_are_made(on_a_gpu, monkeypatch):
    """By a thread, that is gone when the loop ends, in its middle too; what was made is not lost."""
    counted, batch = [], MaskedBatches.batch
    monkeypatch.setattr(MaskedBatches, "batch", lambda *key: counted.append(1) or batch(*key))
    before = threading.active_count()
    data, seen = on_a_gpu(), []
    loader = iter(data.train_dataloader())
    for number, one in zip(range(1, 6), loader):
        seen.append(one)
        end = time.monotonic() + 20
        while len(counted) < number + 2:  # the GPU computes
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(counted) == number + 2
    assert threading.active_count() == before + 1
    loader.close()
    assert threading.active_count() == before
    assert equal(seen, islice(data.train_batches(), 5))
    data.trainer = trainer_at(5, device="cuda")
    assert equal(islice(data.train_dataloader(), 5), islice(data.train_batches(5), 5))


def test_bfloat16_is_near(bert, dataset):
    module = MaskedLM(bert, OPTIMIZER, torch.bfloat16)
    batch = first_batch(dataset, PADDED)
    loss, logits, _ = masked_loss(module, batch)
    module.matmul_dtype = torch.float32
    exact = masked_loss(module, batch)[0].item()
    assert logits.dtype == torch.float32  # the loss is taken in full precision
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert loss.item() != exact
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_dropout_is_a_function_of_seed_step_and_process(bert, dataset):
    for part in bert.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    batch = first_batch(dataset, PADDED)

    def loss(seed, step, rank, drawn=0):
        module = MaskedLM(bert, OPTIMIZER)
        trainer = SimpleNamespace(world_size=8, global_step=step, global_rank=rank)
        module.trainer = trainer
        torch.rand(drawn)
        SeededDropout(seed).on_train_batch_start(trainer, module, batch, 0)
        return module.train().training_step(batch, 0).item()

    assert loss(0, 3, 1) == loss(0, 3, 1, drawn=99)
    assert len({loss(0, 3, 1), loss(1, 3, 1), loss(0, 4, 1), loss(0, 3, 2)}) == 4


# held-out loss


def test_evaluate_equals_a_plain_loop(module, dataset):
    keys = [(VALIDATION_EPOCH, np.arange(i, i + 16)) for i in range(0, 352, 16)]
    made = list(MaskedBatches(dataset, keys, 0.15, 0))
    loss = right = count = 0
    with torch.no_grad():
        for batch in made:
            logits = module.bert(batch["input_ids"], batch.get("sequence_ids")).logits
            for row, label in zip(logits.flatten(0, 1).double(), batch["labels"].flatten()):
                if label != -100:
                    loss -= row.log_softmax(0)[label].item()
                    right += int(row.argmax() == label)
                    count += 1
    assert count > 500 and right > 0
    found = evaluate(module, made)
    assert found["loss"] == pytest.approx(loss / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert found["perplexity"] == math.exp(found["loss"])  # its definition
    assert found["accuracy"] == pytest.approx(right / count, abs=1e-6)


def test_evaluate_is_the_same_for_any_batches_and_processes(module, dataset):
    def figures(batch_size, rank=0, world=1, add_up=lambda sums: sums):
        data = MaskedLMData(dataset, dataset, batch_size, 0.15, 0, 0)
        return evaluate(module, data.validation_batches(rank, world), add_up)

    keys = [(VALIDATION_EPOCH, np.arange(360))]
    expected = evaluate(module, MaskedBatches(dataset, keys, 0.15, 0))
    for found in (figures(1), figures(16), figures(500)):
        assert found == pytest.approx(expected, rel=1e-5)
    sums = []
    for rank in range(3):
        figures(5, rank, 3, add_up=lambda part: sums.append(part) or part)
    assert figures(5, 0, 3, add_up=lambda part: sum(sums)) == pytest.approx(expected, rel=1e-5)


def test_evaluate_leaves_the_module_as_it_was(bert, dataset):
    for part in bert.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    module = MaskedLM(bert, OPTIMIZER)
    made = [first_batch(dataset, PADDED)]
    for mode in (True, False):
        module.train(mode)
        assert evaluate(module, made) == evaluate(module, made)  # no dropout
        assert module.training == module.bert.training == mode
    evaluate(module, made, lambda sums: sums if not sums.requires_grad else None)
    assert all(p.grad is None for p in module.parameters())


def test_evaluate_without_anything_to_predict(module, dataset):
    expected = {"loss": 0, "perplexity": 1, "accuracy": 0}
    assert evaluate(module, []) == expected
    assert evaluate(module, [first_batch(dataset, [1], p=1e-9)]) == expected


@pytest.mark.fault
def test_evaluate_of_a_loss_beyond_all_bounds(module, dataset):
    with torch.no_grad():
        module.bert.cls.predictions.bias[:] = (
            torch.arange(len(module.bert.cls.predictions.bias)) * 1e4
        )
    found = evaluate(module, [first_batch(dataset, PADDED)])
    assert found["loss"] > 1000 and math.isfinite(found["perplexity"])
    with torch.no_grad():
        module.bert.cls.predictions.bias[:] = math.nan
    assert math.isnan(evaluate(module, [first_batch(dataset, PADDED)])["loss"])


# the unigram baseline


def test_unigram_loss_by_hand():
    train = SimpleNamespace(ids=np.array([0, 0, 0, 1, 3]), vocab_size=4)  # counts + 1: 4 2 1 2 of 9
    labels = torch.tensor([[-100, 0, 1], [2, -100, 0]])
    expected = -(2 * math.log(4 / 9) + math.log(2 / 9) + math.log(1 / 9)) / 4
    held_out = [{"labels": labels[:1]}, {"labels": labels[1:]}]
    assert unigram_loss(train, held_out) == pytest.approx(expected, rel=1e-12)


def test_unigram_loss_of_the_corpus(dataset):
    found = unigram_loss(
        dataset, MaskedLMData(dataset, dataset, 16, 0.15, 0, 0).validation_batches()
    )
    assert 1 < found < math.log(dataset.vocab_size)


# the model


@pytest.fixture
def folder(tmp_path, bert, tokenizer):
    """A model and its tokenizer as save_pretrained leaves them."""
    bert.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_is_loaded_as_it_was_saved(folder, bert, tokenizer):
    loaded = load_model(str(folder), tokenizer, 64)
    assert loaded.state_dict().keys() == bert.state_dict().keys()
    for name, weight in bert.state_dict().items():
        assert (loaded.state_dict()[name] == weight).all(), name
    assert loaded.dtype == torch.float32
    assert loaded.config._attn_implementation == "sdpa"


def test_half_precision_weights_are_loaded_in_full(folder, bert, tokenizer):
    bert.to(torch.bfloat16).save_pretrained(folder)
    loaded = load_model(str(folder), tokenizer, 64)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("size, hidden, layers", [("tiny", 128, 2), ("mini", 256, 4)])
def test_scratch_is_bert_of_that_size(tokenizer, size, hidden, layers):
    made = load_model(f"scratch:{size}", tokenizer)
    config = made.config
    assert (config.hidden_size, config.num_hidden_layers) == (hidden, layers)
    assert config.num_attention_heads * 64 == hidden
    assert config.intermediate_size == 4 * hidden
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1


def test_scratch_weights_come_from_the_seed(tokenizer):
    def weights(seed):
        torch.rand(3)
        return load_model("scratch:tiny", tokenizer, seed=seed).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all((first[name] == again[name]).all() for name in first)
    word = "bert.embeddings.word_embeddings.weight"
    assert (first[word] != other[word]).any()


def test_a_fresh_head_comes_from_the_seed(folder, bert, tokenizer):
    """A folder may hold an encoder alone, as sentence models do."""
    bert.bert.save_pretrained(folder)
    set_config(folder, architectures=["BertModel"])
    first, again, other = (
        load_model(str(folder), tokenizer, 64, seed=seed).cls.predictions for seed in (0, 0, 1)
    )
    name = "transform.dense.weight"
    assert (first.state_dict()[name] == again.state_dict()[name]).all()
    assert (first.state_dict()[name] != other.state_dict()[name]).any()


@pytest.mark.parametrize("where", ["scratch", "folder", "folder untied"])
def test_decoder_and_embedding_are_one_tensor(where, folder, tokenizer):
    if where == "folder untied":
        set_config(folder, tie_word_embeddings=False)
    model = "scratch:tiny" if where == "scratch" else str(folder)
    made = load_model(model, tokenizer, 64)
    assert made.cls.predictions.decoder.weight is made.bert.embeddings.word_embeddings.weight
    assert made.cls.predictions.decoder.bias is made.cls.predictions.bias
    made.cls.predictions.decoder.weight.data[7] = 1.5
    assert (made.bert.embeddings.word_embeddings.weight[7] == 1.5).all()


@pytest.mark.parametrize("model", ["scratch:tiny", "folder"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_is_set_everywhere(model, dropout, folder, tokenizer):
    model = str(folder) if model == "folder" else model
    made = load_model(model, tokenizer, 64, dropout)
    found = {part.p for part in made.modules() if isinstance(part, torch.nn.Dropout)}
    assert found == {dropout}
    assert made.config.attention_probs_dropout_prob == dropout


@pytest.mark.fault
def test_a_model_of_fewer_words_than_its_tokenizer(folder, tokenizer):
    set_config(folder, vocab_size=50)
    with refused("has 50 token embeddings", f"{len(tokenizer)} tokens", "same model"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_max_len_above_the_models_positions(folder, tokenizer):
    with refused("max_len=65", "64 positions", "at or below"):
        load_model(str(folder), tokenizer, 65)
    with refused("max_len=513", "512 positions"):
        load_model("scratch:tiny", tokenizer, 513)


@pytest.mark.fault
def test_a_model_that_fills_in_no_words(folder, tokenizer):
    set_config(folder, model_type="gpt2")
    with refused(f"model={str(folder)!r}", "'gpt2'", "pass one such as BERT"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.parametrize(
    "fault", ["no folder", "no config", "damaged config", "no weights", "cut weights"]
)
@pytest.mark.fault
def test_a_folder_that_is_not_whole(folder, tokenizer, fault):
    weights = folder / "model.safetensors"
    if fault == "no folder":
        folder = folder / "gone"
    elif fault == "no config":
        (folder / "config.json").unlink()
    elif fault == "damaged config":
        (folder / "config.json").write_text('{"model_type": ')
    elif fault == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_weights_of_another_shape(folder, tokenizer):
    set_config(folder, hidden_size=64)
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_no_pickled_weights_are_executed(folder, tokenizer, tmp_path):
    """Weights as a pickle that runs code when it is read: it must not run."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Bomb()}, folder / "pytorch_model.bin")
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)
    assert not (tmp_path / "executed").exists()


def test_held_out_questions_do_not_depend_on_how_training_masks(dataset):
    ways = {}, {"masking": "word"}, {"replace": "100/0/0"}
    first, *others = (
        [list(part()) for part in (data.held_out, data.train_batches)]
        for data in (MaskedLMData(dataset, dataset, 40, 0.3, 0, 5, **how) for how in ways)
    )
    for held_out, trained in others:
        for batch, expected in zip(held_out, first[0], strict=True):
            assert all(np.array_equal(batch[name], expected[name]) for name in expected)
        assert [b["input_ids"].tolist() for b in trained] != [
            b["input_ids"].tolist() for b in first[1]
        ]
