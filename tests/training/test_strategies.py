"""The strategy for one GPU, with a stand-in for CUDA graphs that works on the CPU."""

import contextlib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import StrategyRegistry

import notebooks
from encoders import make_model
from helpers import ROOT, refused
from library import code_sources
from mlm.env.devices import trainer_arguments
from mlm.env.hardware import SimulatedMachine
from mlm.training import strategies
from mlm.training.module import MaskedLM
from mlm.training.strategies import CudaGraph, RecordedStep, users_python
from modules import import_closure, library_texts


def record_on_cpu(
    parameters: list[torch.nn.Parameter], results: Callable[[], list], speedup: float = 2.0
) -> Callable:
    """A function like `record_cuda_graph`: results always appear in the tensors of the first call."""

    def record(step: Callable[[], None], pool: Any = None) -> tuple[Callable[[], None], float]:
        step()
        recorded = [parameter.grad for parameter in parameters], results()

        def replay() -> None:
            for parameter in parameters:
                parameter.grad = None
            step()
            for old, new in zip(recorded[0], [p.grad for p in parameters]):
                old.copy_(new)
            for old, new in zip(recorded[1], results()):
                old.data.copy_(new.data)
            for parameter in parameters:
                parameter.grad = None  # as in a graph: nobody assigns gradients

        return replay, speedup

    return record


class Line(pl.LightningModule):
    """A linear model whose loss depends on a number of the batch, and which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.calls = 0

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.calls += 1
        loss = (self.layer(batch["x"]) ** 2).sum() * batch["scale"]
        self.loss_sums = loss.detach() * 1
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Batches(torch.utils.data.IterableDataset):
    """Eight batches; with `two_shapes`, every third has one row less."""

    def __init__(self, two_shapes: bool = False) -> None:
        self.two_shapes = two_shapes

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for number in range(8):
            rows = 4 - (self.two_shapes and number % 3 == 2)
            yield {"x": torch.randn(rows, 3, generator=generator), "scale": number + 1}


class Sums(pl.Callback):
    """Collects `loss_sums` after each backward pass, as the logger of 04 does."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_after_backward(self, trainer: pl.Trainer, module: Line) -> None:
        self.values.append(float(module.loss_sums))


def train(
    strategy: CudaGraph | str = "auto",
    module: Line | None = None,
    accumulate: int = 1,
    callbacks: Iterable[pl.Callback] = (),
    **options: Any,
) -> tuple[Line, list[float]]:
    """A trained Line, and `loss_sums` after each backward pass."""
    torch.manual_seed(0)
    module, sums = module or Line(), Sums()
    trainer = pl.Trainer(
        accelerator="cpu", strategy=strategy, max_epochs=1, logger=False, callbacks=[sums, *callbacks],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(**options), batch_size=None)
    trainer.fit(module, loader)
    return module, sums.values


@pytest.fixture(autouse=True)
def unedited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line takes the place of MaskedLM."""
    monkeypatch.setattr(strategies, "is_unedited", lambda module_class: True)


@pytest.fixture
def train_recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Line, list[float]]]:
    """`train` with CudaGraph and the stand-in for CUDA graphs."""

    def run(
        speedup: float = 2.0, module: Line | None = None, **options: Any
    ) -> tuple[Line, list[float]]:
        torch.manual_seed(0)
        module, strategy = module or Line(), CudaGraph(device="cpu")
        record = record_on_cpu(
            list(module.parameters()), lambda: [module.loss_sums, strategy.unscaled_loss], speedup
        )
        monkeypatch.setattr(strategies, "record_cuda_graph", record)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        return train(strategy, module, **options)

    return run


@pytest.mark.parametrize("two_shapes", [False, True])
@pytest.mark.parametrize("speedup", [0.5, 2.0])
def test_recorded_steps_train_the_same_weights(train_recorded, two_shapes, speedup, capsys):
    plain, sums = train(two_shapes=two_shapes)
    recorded, recorded_sums = train_recorded(speedup, two_shapes=two_shapes)
    assert torch.equal(plain.layer.weight, recorded.layer.weight)
    assert torch.equal(plain.layer.bias, recorded.layer.bias)
    assert sums == recorded_sums
    chosen = "replayed as a CUDA graph" if speedup > 1 else "started kernel by kernel"
    assert capsys.readouterr().out.count(f"training steps are {chosen}") == 1


def test_with_gradient_accumulation_each_batch_runs_as_written(train_recorded):
    plain, sums = train(accumulate=2)
    recorded, recorded_sums = train_recorded(accumulate=2)
    assert torch.equal(plain.layer.weight, recorded.layer.weight) and sums == recorded_sums
    assert recorded.calls == 8


def test_with_gradient_checkpointing_each_batch_runs_as_written(train_recorded, monkeypatch):
    """transformers sets this attribute of a layer."""
    monkeypatch.setattr(torch.nn.Linear, "gradient_checkpointing", True, raising=False)
    plain, sums = train()
    recorded, recorded_sums = train_recorded()
    assert torch.equal(plain.layer.weight, recorded.layer.weight) and sums == recorded_sums
    assert recorded.calls == 8


def test_a_step_that_cannot_be_recorded_runs_as_written(monkeypatch, capsys):
    def fail(step: Callable, pool: Any) -> None:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(strategies, "record_cuda_graph", fail)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    plain, _ = train()
    recorded, _ = train(CudaGraph(device="cpu"))
    assert torch.equal(plain.layer.weight, recorded.layer.weight)
    printed = capsys.readouterr().out
    assert "cannot be recorded: operation not permitted" in printed and "more" not in printed


class BeforeBackward(pl.Callback):
    """A callback that Lightning calls within the step."""

    def on_before_backward(self, trainer: pl.Trainer, module: Line, loss: torch.Tensor) -> None:
        module.calls_before_backward = getattr(module, "calls_before_backward", 0) + 1


def edit(module: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """MaskedLM was edited."""
    monkeypatch.setattr(strategies, "is_unedited", lambda module_class: False)


def replace_method(module: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of this object was replaced."""
    module.training_step = module.training_step


def add_hook(module: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of a layer."""
    module.layer.register_forward_hook(lambda *arguments: None)


def add_hook_of_a_weight(module: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of a weight."""
    module.layer.weight.register_hook(lambda gradient: None)


def add_layer(module: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose class is defined in the notebook."""
    module.layer.__class__ = type("Mine", (torch.nn.Linear,), {"__module__": "__main__"})


CHANGES = [edit, replace_method, add_hook, add_hook_of_a_weight, add_layer]


@pytest.mark.parametrize("change", CHANGES)
def test_python_code_of_the_user_runs_at_every_step(train_recorded, monkeypatch, capsys, change):
    plain, sums = train()
    torch.manual_seed(0)
    module = Line()
    change(module, monkeypatch)
    recorded, recorded_sums = train_recorded(module=module)
    assert recorded.calls == 8
    assert torch.equal(plain.layer.weight, recorded.layer.weight) and sums == recorded_sums
    assert "a graph would leave its Python code out" in capsys.readouterr().out


def test_a_callback_within_the_step_runs_at_every_step(train_recorded, monkeypatch, capsys):
    added = [BeforeBackward()]
    monkeypatch.setattr(strategies, "added_callbacks", lambda callbacks: added)
    assert train_recorded(callbacks=added)[0].calls_before_backward == 8
    assert "BeforeBackward has on_before_backward" in capsys.readouterr().out


def test_hooks_that_transformers_leaves_behind_are_not_the_users(tokenizer):
    model = make_model("bert", tokenizer)
    model(torch.zeros(1, 4, dtype=torch.long), output_hidden_states=True)
    module = MaskedLM(model, {})
    assert users_python(module, []) is None
    model.cls.register_full_backward_hook(print)
    assert users_python(module, []) == "a part of the model has hooks"


def test_a_step_that_waits_for_the_gpu_is_found_before_recording(monkeypatch):
    """transformers must not inspect masks, as while recording. Torch's warning is not for users."""
    modes: list[Any] = []

    def set_mode(mode: Any) -> None:
        modes.append(mode)
        if mode == "error":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def wait() -> None:
        assert torch.cuda.is_current_stream_capturing()
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=strategies.CANNOT_RECORD):
        warnings.simplefilter("error")
        strategies.check_nothing_waits(wait)
    assert modes == ["error", 1] and not torch.cuda.is_current_stream_capturing()


class FakeCuda:
    """Stands for torch.cuda while a step is recorded; `events` is what happened, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: bool = False) -> None:
        self.events: list[str] = []
        self.fail = fail
        fakes: dict[str, Any] = {
            "get_rng_state": lambda: "state",
            "set_rng_state": lambda state: self.events.append(f"random {state}"),
            "Stream": lambda: self,
            "current_stream": lambda: self,
            "stream": lambda stream: contextlib.nullcontext(),
            "synchronize": lambda: None,
            "CUDAGraph": lambda: self,
            "graph": self.graph,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(strategies, "check_nothing_waits", lambda step: step())

    def wait_stream(self, stream: Any) -> None:
        self.events.append("wait")

    def replay(self) -> None:
        self.events.append("replay")

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, capture_error_mode: str):
        """The other threads, which prepare batches, may go on."""
        assert capture_error_mode == "thread_local"
        self.events.append("record")
        yield
        if self.fail:
            raise RuntimeError("CUDA error: operation failed\nmore")


def test_after_recording_the_random_state_is_as_before(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    replay, _ = strategies.record_cuda_graph(lambda: cuda.events.append("step"), None)
    timed = ["replay"] * strategies.TIMED_STEPS
    steps = ["step"] * (strategies.WARM_UP_STEPS + 1 + strategies.TIMED_STEPS)
    before = ["wait", *steps, "wait", "random state"]
    assert cuda.events == [*before, "record", "step", *timed, "random state"]
    replay()
    assert cuda.events[-1] == "replay"


def test_after_a_step_that_cannot_be_recorded_its_kernels_have_ended(monkeypatch):
    cuda = FakeCuda(monkeypatch)

    def fail() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        strategies.record_cuda_graph(fail, None)
    assert cuda.events == ["wait", "wait", "random state"]


@pytest.mark.fault
def test_a_recording_that_fails_is_one_line(monkeypatch):
    FakeCuda(monkeypatch, fail=True)
    with refused(
        "cannot be recorded as a CUDA graph (CUDA error: operation failed)", "compile=False"
    ):
        strategies.record_cuda_graph(lambda: None, None)


@pytest.mark.parametrize("error", [ZeroDivisionError, torch.OutOfMemoryError, RuntimeError])
def test_other_errors_of_the_step_are_raised(train_recorded, monkeypatch, error):
    def fail(*args: Any) -> None:
        raise error("wrong")

    monkeypatch.setattr(Line, "training_step", fail)
    with pytest.raises(error, match="wrong"):
        train_recorded()


def test_a_resumed_run_keeps_its_choice(tmp_path):
    strategy = CudaGraph(device="cpu")
    for choice in (True, False, None):
        strategy.use_graph = choice
        strategy.save_checkpoint({"state": 1}, tmp_path / "file.ckpt")
        resumed = CudaGraph(device="cpu")
        assert resumed.load_checkpoint(tmp_path / "file.ckpt", weights_only=True)["state"] == 1
        assert resumed.use_graph is choice


def test_numbers_of_a_batch_are_not_frozen():
    parameter = torch.nn.Parameter(torch.ones(2))

    def loss(batch: dict) -> torch.Tensor:
        return (parameter * batch["x"]).sum() * batch["scale"]

    first = {"x": torch.ones(2), "scale": 3}
    step = RecordedStep(loss, first, [parameter], lambda f: (f(), (f, 1.0))[1])
    step.replay({"x": torch.tensor([1.0, 2.0]), "scale": 5})
    assert parameter.grad.tolist() == [5.0, 10.0]


@pytest.mark.parametrize("machine", [SimulatedMachine(gpus=1), SimulatedMachine(tpu_cores=8)])
def test_lightning_knows_the_strategies_that_a_machine_gets(machine):
    names = StrategyRegistry.available_strategies()
    assert trainer_arguments(machine=machine)[0]["strategy"] in names


@pytest.mark.parametrize("notebook", ["04_train", "06_speed"])
def test_notebooks_that_train_with_lightning_register_the_strategies(notebook):
    """01 shows the names without this module."""
    sources = code_sources(notebooks.read(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert "training/strategies.py" in import_closure(sources, library_texts())
