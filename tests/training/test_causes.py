"""Errors whose cause is known become one line that says what to pass instead."""

import inspect
import linecache
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import mlm.training.module
from helpers import refused
from mlm.env.notebook import NotebookError
from mlm.training.causes import (
    CAUSES,
    StepMemory,
    explained_memory_errors,
    is_unedited,
    memory_error,
    model_error,
)
from mlm.training.module import MaskedLM
from small_runs import Broken, SmallRuns, fail_at

H100 = 80e9, "the H100 has 80.0 GB"
OUT_OF_MEMORY = [  # as torch, NumPy and XLA word it
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 12.00 GiB. GPU 0 has a total ..."
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, max allowed: 18.13 GB)."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4096000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: not enough memory: ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in hbm."),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


def chained(error):
    """An error whose cause is this one."""
    try:
        raise RuntimeError("backend='inductor' raised an error") from error
    except RuntimeError as outer:
        return outer


@pytest.fixture
def on_h100(monkeypatch):
    monkeypatch.setattr("mlm.training.causes.available_memory", lambda *_: H100)


@pytest.fixture
def step(bert):
    """A function that makes a StepMemory with some other values, for a text of 100,000 lines."""
    dataset = SimpleNamespace(lengths=np.arange(100_000) % 30, examples_per_epoch=100_000)

    def make(**changes):
        values = dict(batch_size=1024, accumulate=2, mlm_probability=0.3, dtype=torch.bfloat16)
        return StepMemory(bert, dataset, True, **(values | changes))

    return make


# memory


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, chained(OUT_OF_MEMORY[0])])
def test_too_little_memory_is_one_line_that_says_what_would_fit(on_h100, step, error):
    assert str(memory_error(error, step())) == (
        "out of memory with batch_size=1024, accumulate=2 (the H100 has 80.0 GB): pass batch_size=256, "
        "accumulate=8 for a step of the same examples (estimated to fit); or gradient_checkpointing=True, "
        "which stores less and takes a third more time"
    )


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), NotebookError("a line"), OSError(28, "full")]
)
def test_other_errors_stay_as_they_are(step, error):
    assert memory_error(error, step()) is None
    with pytest.raises(type(error)) as caught, explained_memory_errors(step()):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("batch_size", [2, 3, 7, 64, 100])
@pytest.mark.parametrize("accumulate", [None, 1, 3])
def test_the_advice_is_smaller_and_loses_no_example(on_h100, step, batch_size, accumulate):
    error = memory_error(MemoryError(), step(batch_size=batch_size, accumulate=accumulate))
    advice = str(error).split(": ")[1].partition(";")[0].replace(",", "")
    values = {k: int(v) for k, v in (part.split("=") for part in advice.split() if "=" in part)}
    assert 1 <= values["batch_size"] < batch_size
    assert ("accumulate" in values) == bool(accumulate)  # 06 has no such parameter
    if accumulate:
        examples = values["batch_size"] * values["accumulate"]
        assert batch_size * accumulate <= examples < batch_size * accumulate + values["batch_size"]


def test_the_advice_depends_on_model_text_and_memory(step):
    wide = step()
    wide.model.config.hidden_size *= 10_000
    assert 1 <= wide.fitting_batch_size(80e9) < 256
    assert wide.fitting_batch_size(8e9) < wide.fitting_batch_size(80e9)
    assert step(dtype=torch.float32).fitting_batch_size(80e9) < wide.fitting_batch_size(80e9)
    wide.pack = False  # each example takes the longest one's length
    assert wide.fitting_batch_size(80e9) < step().fitting_batch_size(80e9)


def test_the_advice_for_a_batch_that_is_larger_than_the_text(on_h100, step):
    small = step(batch_size=65536)
    small.train = SimpleNamespace(lengths=np.full(2000, 20), examples_per_epoch=2000)
    assert "batch_size=256, accumulate=8 (" in str(memory_error(MemoryError(), small))
    small.train.lengths = np.full(5000, 20)  # of a mixture, whose epochs have only some of them
    assert "batch_size=256, accumulate=8 (" in str(memory_error(MemoryError(), small))


def test_a_single_example_or_a_model_that_does_not_fit(on_h100, step):
    assert "max_len" in str(memory_error(MemoryError(), step(batch_size=1)))
    assert step().fitting_batch_size(1000) == 0  # less than the weights


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_a_real_allocation_that_fails_and_its_memory_is_free_afterwards(step, allocate):
    freed = []

    class Tensor:
        def __del__(self):
            freed.append(True)

    def forward():
        tensor = Tensor()
        allocate((1 << 50,))
        return tensor

    advice = refused("batch_size=1024", "this computer has", "pass batch_size=")
    with advice, explained_memory_errors(step()):
        forward()
    assert freed


# runs


@pytest.fixture
def runs(corpus_folder, tokenizer, bert):
    return SmallRuns(corpus_folder, tokenizer, bert)


@pytest.mark.fault
@pytest.mark.parametrize("place", ["training_step", "masked_logits", "on_train_batch_end"])
def test_a_run_that_is_out_of_memory_fails_in_one_line(runs, tmp_path, monkeypatch, place):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 12 GiB")

    monkeypatch.setattr(runs.module, place, fail)
    with refused(
        "out of memory with batch_size=8, accumulate=1", "pass batch_size=4, accumulate=2"
    ):
        runs(tmp_path)
    monkeypatch.undo()
    runs(tmp_path)  # and can be started again


@pytest.mark.fault
def test_the_data_of_a_run_that_do_not_fit_into_memory(runs, tmp_path, monkeypatch):
    def batch(*_):
        raise MemoryError

    monkeypatch.setattr("mlm.data.batches.MaskedBatches.make", batch)
    with refused("out of memory with batch_size=8", "this computer has"):
        runs(tmp_path)


@pytest.mark.fault
def test_a_model_that_does_not_fit_its_data_is_one_line(corpus_folder, tokenizer, bert, tmp_path):
    """torch's IndexError, without any code of a user or test."""
    bert.bert.embeddings.position_embeddings = torch.nn.Embedding(2, bert.config.hidden_size)
    runs, path = SmallRuns(corpus_folder, tokenizer, bert), tmp_path / "run" / "traceback.txt"
    with refused("'bert'", "IndexError: index out of range in self", "smaller max_len", str(path)):
        runs.train_run(tmp_path)
    assert "Traceback" in path.read_text() and "position_embeddings" in path.read_text()


class OtherArguments(pl.Callback):
    def on_train_batch_end(self, trainer, module):
        pass


@pytest.mark.fault
@pytest.mark.parametrize("added", [pl.callbacks.EarlyStopping("no such metric"), OtherArguments()])
def test_the_error_of_an_added_callback_is_not_the_models(runs, tmp_path, monkeypatch, added):
    """It may be raised by Lightning, without any code of the user."""
    monkeypatch.setattr("small_runs.SeededDropout", lambda seed: added)
    with pytest.raises((RuntimeError, TypeError)) as caught:
        runs(tmp_path)
    assert not isinstance(caught.value, NotebookError)


def test_the_error_of_a_user_keeps_its_traceback(runs, tmp_path):
    """small_runs, where Broken is raised, stands for code of a user."""
    with fail_at(runs, 3), pytest.raises(Broken):
        runs(tmp_path)


# who took part


def in_a_cell(source):
    """The MaskedLM that a notebook's cell with this source defines."""
    name = f"/tmp/ipykernel_1/{len(linecache.cache)}.py"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    namespace = {**vars(mlm.training.module), "__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace["MaskedLM"]


SOURCE = inspect.getsource(MaskedLM)
CELLS = [
    (SOURCE, True),
    (
        SOURCE.replace('"""Logits', '"""In my words: logits').replace(
            "super().__init__()", "super().__init__()  # of Lightning"
        ),
        True,
    ),
    (SOURCE.replace("self.bert = bert", "self.model = self.bert = bert"), False),
    (SOURCE.replace('reduction="sum"', 'reduction="sum", label_smoothing=0.1'), False),
    (SOURCE + "\n    def on_train_start(self):\n        pass\n", False),
    (SOURCE + "\n    on_train_start = lambda self: None\n", False),
    (SOURCE + "\n    on_train_start = dict(f=lambda self: (\n        None))['f']\n", False),
]


@pytest.mark.parametrize("source, unedited", CELLS)
def test_one_line_if_the_class_in_the_cell_is_the_library_s(bert, tmp_path, source, unedited):
    """After an edit, torch's error may be the edit's fault."""
    module = in_a_cell(source)(bert, {})
    batch = {"input_ids": torch.tensor([[10**6]]), "positions": torch.tensor([0])}
    with pytest.raises(IndexError) as caught:
        module.masked_logits(batch)
    caught.value.__traceback__ = caught.tb.tb_next  # without the frame of this test
    line = model_error(caught.value, module, tmp_path / "traceback.txt")
    assert (line is not None) == unedited == is_unedited(type(module))


@pytest.mark.parametrize(
    "message",
    [
        "index is out of bounds",
        "mat1 and mat2",
        "for 'Half'",
        "put_ does not have a deterministic implementation",
        "",
    ],
)
def test_every_message_has_a_cause(bert, tmp_path, message):
    line = model_error(RuntimeError(message), MaskedLM(bert, {}), tmp_path / "traceback.txt")
    assert line and any(cause in str(line) for cause in CAUSES.values())


def test_a_failed_write_or_an_interrupt_is_no_error_of_the_model(bert, tmp_path):
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        assert model_error(error, MaskedLM(bert, {}), tmp_path) is None
