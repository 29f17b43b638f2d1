"""Lightning's strategies for one GPU and for several TPU cores. Importing this module registers their names.

For one GPU, a training step is recorded once, then replayed. A step of BERT consists of about a thousand small
kernels. For small batches, Python takes longer to start them than a fast GPU takes to compute them. A CUDA graph
starts all of them at once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). That is possible
because all training batches have one shape. On an H200, BERT-base with 32 lines per batch became ten times as fast;
large batches did not become faster. Both ways are timed before the first step.
"""

import re
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry, XLAStrategy

from mlm.env.notebook import NotebookError
from mlm.training.causes import added_callbacks, is_unedited
from mlm.training.module import is_checkpointing

Batch = dict[str, Any]
CANNOT_RECORD = re.compile("captur|synchroniz")  # in messages of errors
WARM_UP_STEPS = 3  # before recording: kernels are loaded and chosen, buffers are allocated
TIMED_STEPS = 3  # the median counts
GRAPH_CHOICE = "cuda_graph"  # the key of the choice in a checkpoint


def median_seconds(function: Callable[[], None]) -> float:
    """The median time of a function on the GPU."""
    times = []
    for _ in range(TIMED_STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[TIMED_STEPS // 2]


def check_nothing_waits(step: Callable[[], None]) -> None:
    """Run `step`; raises RuntimeError if it waits for a result of the GPU, as `tensor.item()` does.

    A recording would fail there. transformers inspects the values of masks, but not while a graph is
    recorded: so it is told that one is.
    """
    is_capturing, mode = torch.cuda.is_current_stream_capturing, torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        step()
    finally:
        torch.cuda.is_current_stream_capturing = is_capturing
        torch.cuda.set_sync_debug_mode(mode)


def record_cuda_graph(step: Callable[[], None], pool: Any) -> tuple[Callable[[], None], float]:
    """Record the kernels that `step` starts: (a function that replays them, how much faster that is).

    The warm-up runs in a stream of its own, as torch.cuda.graph requires. The random state is restored
    at the end, so that the first step draws the dropout that it would draw without a recording. Raises
    RuntimeError if the step waits for the GPU, and NotebookError if the recording fails for another
    reason: that would leave the process in a state in which it cannot go on.
    """
    random_state = torch.cuda.get_rng_state()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
            check_nothing_waits(step)
            seconds = median_seconds(step)
    finally:
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.set_rng_state(random_state)
    graph = torch.cuda.CUDAGraph()
    try:
        # Only this thread must not use the GPU otherwise: another one prepares batches.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise NotebookError(
            f"the training step cannot be recorded as a CUDA graph ({reason}): pass compile=False"
        ) from error
    speedup = seconds / median_seconds(graph.replay)
    torch.cuda.set_rng_state(random_state)
    return graph.replay, speedup


class RecordedStep:
    """Forward and backward pass for batches of one shape: `replay` returns the loss of a batch.

    `parameters` are the weights; `gradients` has their gradients after each replay, or None.
    `compute_loss` is a function of a batch and returns what is differentiated. `record` is called with
    a function of no arguments; it returns a function that repeats it, and how much faster that is.
    """

    def __init__(
        self,
        compute_loss: Callable[[Batch], torch.Tensor],
        batch: Batch,
        parameters: list[torch.nn.Parameter],
        record: Callable[[Callable[[], None]], tuple[Callable[[], None], float]],
    ) -> None:
        # A graph reads its input always at the same place. Numbers become tensors, or the recorded
        # step would keep the numbers of the first batch.
        device = parameters[0].device
        self.inputs = {k: torch.as_tensor(v, device=device).clone() for k, v in batch.items()}
        self.parameters = parameters
        # other tensors that `compute_loss` sets, by name
        self.results: dict[str, torch.Tensor] = {}

        def step() -> None:
            for parameter in parameters:
                parameter.grad = None
            loss = compute_loss(self.inputs)
            loss.backward()
            # no reference to the autograd graph: its nodes belong to a stream
            self.loss = loss.detach()

        self.repeat, self.speedup = record(step)
        self.gradients = [parameter.grad for parameter in parameters]

    def replay(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch; afterwards `gradients` has its gradients."""
        for name, value in batch.items():
            if torch.is_tensor(value):
                self.inputs[name].copy_(value, non_blocking=True)
            else:
                self.inputs[name].fill_(value)
        self.repeat()
        return self.loss

    def set_gradients(self) -> None:
        """Let the optimizer see the gradients of the last replay."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


def shape_of(batch: Batch) -> tuple:
    """What must be equal for two batches to share a recorded step: names, shapes and types."""
    return tuple(
        (name, tuple(value.shape), value.dtype) if torch.is_tensor(value) else (name, type(value))
        for name, value in sorted(batch.items())
    )


def hooks_of(part: torch.nn.Module) -> list[Any]:
    """The hooks of a part of a model and of its weights, without those that transformers leaves behind."""
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    tables = [getattr(part, kind) for kind in kinds]
    for weight in part.parameters(recurse=False):
        tables += [weight._backward_hooks, weight._post_accumulate_grad_hooks]
    hooks = [hook for table in tables if table for hook in table.values()]
    return [hook for hook in hooks if not str(hook.__module__).startswith("transformers.")]


def users_python(module: Any, callbacks: Iterable[Any]) -> str | None:
    """What in a step may be Python code of the user; None if nothing is found.

    callbacks: of the Trainer. Not noticed: functions of the library that a notebook defines again.
    """
    if not is_unedited(type(module)) or vars(module).keys() & vars(type(module)).keys():
        return "MaskedLM was edited"
    if any(map(hooks_of, module.modules())):
        return "a part of the model has hooks"
    if any(type(part).__module__ == "__main__" for part in module.modules() if part is not module):
        return "a part of the model is defined in the notebook"
    for callback in added_callbacks(callbacks):  # Lightning calls this within the step
        if type(callback).on_before_backward is not pl.Callback.on_before_backward:
            return f"{type(callback).__name__} has on_before_backward"
    return None


class CudaGraph(SingleDeviceStrategy):
    """Lightning's strategy for one GPU: training steps are recorded if replaying them is faster.

    A step that cannot be recorded, because it waits for a result of the GPU for example, runs as
    written, and a line says so. Also if it may have Python code of the user, which a graph would leave
    out (see `users_python`). With gradient accumulation, too: gradients are then sums. And with
    gradient checkpointing, which is for batches so large that recording gains nothing. The choice is
    stored in checkpoints, because recorded steps of large batches can differ in their last bits.
    """

    def __init__(self, device: str = "cuda:0", **options: Any) -> None:
        super().__init__(device=device, **options)
        self.use_graph: bool | None = None  # None: not decided yet
        self.steps: dict[tuple, RecordedStep | None] = {}
        self.current: RecordedStep | None = None  # of the batch between forward and backward pass
        self.pool: Any = None  # the memory that all recorded steps share
        self.unscaled_loss = torch.tensor(0.0)

    def record(self, batch: Batch, batch_idx: int) -> RecordedStep | None:
        """Record the training step for the shape of a batch; None if that is not possible."""
        module = self.lightning_module
        assert module is not None
        # Checkpointing restores the random state, which some versions of torch cannot record (pytorch#162504).
        accumulates = module.trainer.accumulate_grad_batches > 1
        if self.use_graph is False or accumulates or is_checkpointing(module):
            return None
        if python := users_python(module, module.trainer.callbacks):
            self.start_kernel_by_kernel(f"{python}, and a graph would leave its Python code out")
            return None
        self.pool = self.pool or torch.cuda.graph_pool_handle()

        def compute_loss(inputs: Batch) -> torch.Tensor:
            with self.precision_plugin.train_step_context():
                loss = module.training_step(inputs, batch_idx)
            self.unscaled_loss = loss.detach()
            return self.precision_plugin.pre_backward(loss, module)  # float16: scaled

        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        try:
            step = RecordedStep(
                compute_loss, batch, parameters, lambda f: record_cuda_graph(f, self.pool)
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not CANNOT_RECORD.search(str(error)):
                raise
            module.zero_grad(set_to_none=True)
            self.start_kernel_by_kernel(f"they cannot be recorded: {str(error).splitlines()[0]}")
            return None
        if self.use_graph is None:
            self.use_graph = step.speedup > 1
            chosen = "replayed as a CUDA graph" if self.use_graph else "started kernel by kernel"
            print(
                f"training steps are {chosen}: replaying takes {1 / step.speedup:.0%} of the time"
            )
        if not self.use_graph:
            module.zero_grad(set_to_none=True)
            return None
        step.loss = self.unscaled_loss
        step.results = {k: v for k, v in vars(module).items() if torch.is_tensor(v)}
        return step

    def start_kernel_by_kernel(self, reason: str) -> None:
        """From now on, steps run as written; says why."""
        self.use_graph = False
        self.steps.clear()
        print(f"training steps are started kernel by kernel; {reason}")

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """The loss of a batch. Its gradients are computed, too, if the step was recorded."""
        shape = shape_of(batch)
        if shape not in self.steps:
            self.steps[shape] = self.record(batch, batch_idx)
        self.current = self.steps[shape]
        if self.current is None:
            return super().training_step(batch, batch_idx)
        self.lightning_module.__dict__.update(self.current.results)  # the recorded tensors
        return self.current.replay(batch)

    def backward(
        self, closure_loss: torch.Tensor, optimizer: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The backward pass, which `training_step` has done already if the step was recorded."""
        if self.current is None:
            return super().backward(closure_loss, optimizer, *args, **kwargs)
        self.current.set_gradients()
        assert self.lightning_module is not None
        return self.precision_plugin.post_backward(closure_loss, self.lightning_module)

    def save_checkpoint(self, checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, with the choice."""
        super().save_checkpoint(checkpoint | {GRAPH_CHOICE: self.use_graph}, *args, **kwargs)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; a resumed run keeps its choice."""
        checkpoint = super().load_checkpoint(*args, **kwargs)
        self.use_graph = checkpoint.get(GRAPH_CHOICE)
        return checkpoint

    def teardown(self) -> None:
        """Free the memory of the recorded steps."""
        self.steps, self.current, self.pool = {}, None, None
        super().teardown()


class TpuCores(XLAStrategy):
    """Lightning's strategy for several TPU cores, without its transfers between host and device.

    The processes are forks of one notebook: weights and names are equal in all of them from the start.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(sync_module_states=False, **options)

    def barrier(self, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Wait for all processes: none can know the sum before each has added its number."""
        if self._launched:
            import torch_xla.core.xla_model as xm

            xm.all_reduce(xm.REDUCE_SUM, torch.zeros(4).to(self.root_device)).cpu()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return `obj`: every process has an equal one."""
        return obj


# Registered by name, so that the arguments of Trainer are plain values; override: also after an edit.
StrategyRegistry.register("cuda_graph", CudaGraph, override=True)
StrategyRegistry.register("tpu_cores", TpuCores, override=True)
