"""CudaGraph, Lightning's strategy for one GPU: a training step is recorded once, then replayed.

A step of BERT consists of about a thousand small kernels. For usual batches, Python takes longer to
start them than a fast GPU takes to compute them. A CUDA graph starts all of them at once
(https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). That is possible because all
training batches have one shape.
"""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry

Batch = dict[str, Any]
WARM_UP_STEPS = 3  # before recording: kernels are loaded and chosen, buffers are allocated


def record_cuda_graph(step: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record the kernels that `step` starts, after a warm-up; returns a function that replays them.

    The warm-up runs in a stream of its own, as torch.cuda.graph requires. The random state is restored
    after it, so that the first replay draws the dropout that a step without a graph would draw.
    """
    random_state = torch.cuda.get_rng_state()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        step()
    torch.cuda.set_rng_state(random_state)
    return graph.replay


class RecordedStep:
    """Forward and backward pass for batches of one shape: `replay` returns the loss of a batch.

    `parameters` are the weights; `gradients` has their gradients after each replay, or None.
    `compute_loss` is a function of a batch and returns what is differentiated. `record` records a
    function of no arguments and returns one that repeats it.
    """

    def __init__(
        self,
        compute_loss: Callable[[Batch], torch.Tensor],
        batch: Batch,
        parameters: list[torch.nn.Parameter],
        record: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        # A graph reads its input always at the same place. Numbers become tensors, or the recorded
        # step would keep those of the first batch.
        device = parameters[0].device
        self.inputs = {k: torch.as_tensor(v, device=device).clone() for k, v in batch.items()}
        self.parameters = parameters
        self.results: dict[
            str, torch.Tensor
        ] = {}  # other tensors that `compute_loss` sets, by name

        def step() -> None:
            for parameter in parameters:
                parameter.grad = None
            self.loss = compute_loss(self.inputs)
            self.loss.backward()

        self.repeat = record(step)
        self.loss = self.loss.detach()
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


class CudaGraph(SingleDeviceStrategy):
    """Lightning's strategy for one GPU, with recorded training steps.

    A step that cannot be recorded, because it waits for a result on the CPU for example, runs as
    written, and a line says so. With gradient accumulation, too: gradients are then sums.
    """

    strategy_name = "cuda_graph"

    def __init__(self, device: str = "cuda:0", **options: Any) -> None:
        super().__init__(device=device, **options)
        self.steps: dict[tuple, RecordedStep | None] = {}
        self.current: RecordedStep | None = None  # of the batch between forward and backward pass
        self.pool: Any = None  # the memory that all recorded steps share
        self.unscaled_loss = torch.tensor(0.0)

    def record(self, batch: Batch, batch_idx: int) -> RecordedStep | None:
        """Record the training step for the shape of a batch; None if that is not possible."""
        module = self.lightning_module
        assert module is not None
        if module.trainer.accumulate_grad_batches > 1:
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
            if "captur" not in str(error):
                raise
            module.zero_grad(set_to_none=True)
            reason = str(error).partition("\n")[0]
            print(f"each step is started kernel by kernel, it cannot be recorded: {reason}")
            return None
        step.loss = self.unscaled_loss
        step.results = {k: v for k, v in vars(module).items() if torch.is_tensor(v)}
        return step

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

    def teardown(self) -> None:
        """Free the memory of the recorded steps."""
        self.steps, self.current, self.pool = {}, None, None
        super().teardown()


# Registered by name, so that the arguments of Trainer are plain values; override: also after an edit.
StrategyRegistry.register("cuda_graph", CudaGraph, override=True)
