"""The cause of an error of a training step in one line: too little memory, or the model or the data.

The rule: memory that does not suffice is always one line. Any other error becomes one line only if no code of
the user took part in it: MaskedLM is as in the library, and so is every function that was running, and no
callback was added. After an edit, the traceback says more, and it is shown.
"""

import ast
import contextlib
import errno
import inspect
import math
import re
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException

from mlm.env.notebook import NotebookError
from mlm.models.model_size import host_memory
from mlm.optim.recipe import bytes_per_example, largest_batch, tokens_per_example
from mlm.training.module import MaskedLM, is_checkpointing

OUT_OF_MEMORY = re.compile(  # CUDA, MPS, XLA; cuBLAS and cuDNN; torch's CPU allocator; NumPy
    "out of memory|RESOURCE_EXHAUSTED|_ALLOC_FAILED|can't allocate memory|not enough memory"
    "|unable to allocate",
    re.IGNORECASE,
)
OWN_MODULES = "mlm.", "transformers_modules."  # this suite; the code that comes with a model
OWN_FILES = (
    "<frozen",
    "<eval_with_key",
    sysconfig.get_path("stdlib"),
)  # the second: of torch.compile
OWN_FOLDERS = "site-packages", "dist-packages", "torchinductor"
BYTES_PER_WEIGHT = 18  # the weight, its gradient, two averages of AdamW; a copy in 16 bits

CAUSES = {  # in the message of an error: what it means
    "index out of range|index is out of bounds|device-side assert": "a token id or a position is larger "
    "than the model's table of embeddings: pass the model's own tokenizer, or a smaller max_len",
    "not implemented for '(Half|BFloat16)'": 'the model cannot compute in 16 bits: pass precision="32"',
    "does not require grad": "no weight of the model can be trained: all of them are frozen",
    "no kernel image": "this torch has no kernels for this GPU: run 01, which says what to install",
    "does not have a deterministic implementation": "an operation of the model cannot repeat its bits on "
    "a GPU: end the cell with prepare_model by torch.use_deterministic_algorithms(False); a resumed run "
    "may then differ in its last bits",
    "": "the model and its batches do not fit together: does the model train in plain transformers? "
    "If not, pass another model",
}


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of its cause, ..."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory could not be allocated."""
    return any(
        isinstance(cause, MemoryError | torch.OutOfMemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError) and OUT_OF_MEMORY.search(str(cause)))
        for cause in error_chain(error)
    )


def is_on_host(error: BaseException) -> bool:
    """Whether the computer's own memory does not suffice, not the memory of a GPU or TPU."""
    return any(
        isinstance(cause, MemoryError | OSError)
        or re.search("CPUAllocator|not enough memory", str(cause))
        for cause in error_chain(error)
    )


def available_memory(on_gpu: bool) -> tuple[float, str]:
    """(bytes that this process can use, in words what there is) of its GPU or of the computer."""
    if on_gpu:
        name = torch.cuda.get_device_name()
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved()
        others = (total - free - own) / 1e9
        taken = f", of which {others:.1f} GB are taken by others" if others > 1 else ""
        return free + own, f"the {name} has {total / 1e9:.1f} GB{taken}"
    total = host_memory()
    return total, f"this computer has {total / 1e9:.1f} GB"


@dataclass
class StepMemory:
    """What a training step needs memory for.

    Each process has `accumulate` batches of `batch_size` examples (`accumulate` None: the notebook has no
    such parameter). `pack`: whether examples of `train`, a MaskedLMDataset, share rows.
    """

    model: Any
    train: Any
    pack: bool
    batch_size: int
    accumulate: int | None
    mlm_probability: float
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any, data: Any, dtype: torch.dtype) -> "StepMemory":
        """The memory of a step with the batches of `data`, a MaskedLMData; matrix products in `dtype`."""
        return cls(
            model,
            data.train,
            data.pack,
            data.batch_size,
            data.accumulate,
            data.mlm_probability,
            dtype,
        )

    @property
    def weights(self) -> int:
        """Bytes of the weights, with gradients and averages."""
        return BYTES_PER_WEIGHT * sum(weight.numel() for weight in self.model.parameters())

    @property
    def examples(self) -> int:
        """The number of examples in a batch."""
        return min(self.batch_size, self.train.examples_per_epoch)

    def bytes_per_example(self, checkpointing: bool) -> float:
        """Bytes for each example of a batch, with or without gradient checkpointing (estimated)."""
        config = self.model.config.get_text_config()
        return bytes_per_example(
            getattr(config, "hidden_size", 768),
            getattr(config, "num_hidden_layers", 12),
            config.vocab_size,
            tokens_per_example(self.train, self.pack),
            self.mlm_probability,
            self.dtype.itemsize,
            checkpointing,
        )

    def bytes_needed(self, checkpointing: bool) -> float:
        """Bytes for weights and a batch, with or without gradient checkpointing (estimated)."""
        return self.weights + self.examples * self.bytes_per_example(checkpointing)

    def fitting_batch_size(self, memory: float) -> int:
        """A smaller batch size that probably fits into `memory` bytes; 0 if there is none."""
        if self.weights > memory:
            return 0
        example = self.bytes_per_example(is_checkpointing(self.model))
        return min(largest_batch(memory - self.weights, example), self.examples // 2)

    def advice(self, memory: float) -> str:
        """What to pass instead."""
        fitting = self.fitting_batch_size(memory)
        supported = getattr(self.model, "supports_gradient_checkpointing", False)
        slower = ""
        if self.accumulate is not None and supported and not is_checkpointing(self.model):
            slower = (
                "; or gradient_checkpointing=True, which stores less and takes a third more time"
            )
        if not fitting:
            return (
                f"pass a smaller max_len or a smaller model{slower if self.examples == 1 else ''}"
            )
        if self.accumulate is None:
            return f"pass batch_size={fitting} (estimated to fit)"
        examples = min(
            self.accumulate * self.batch_size, self.train.examples_per_epoch
        )  # of a step
        batches = math.ceil(examples / fitting)
        step = " for a step of the same examples" if batches * fitting == examples else ""
        return f"pass batch_size={fitting}, accumulate={batches}{step} (estimated to fit){slower}"


def memory_error(error: BaseException, step: StepMemory) -> NotebookError | None:
    """The line for memory that does not suffice: what was given, what there is, what would fit.

    None if the error is another one.
    """
    if isinstance(error, NotebookError) or not is_out_of_memory(error):
        return None
    memory, in_words = available_memory(torch.cuda.is_initialized() and not is_on_host(error))
    given = f"batch_size={step.batch_size}"
    given += "" if step.accumulate is None else f", accumulate={step.accumulate}"
    return NotebookError(f"out of memory with {given} ({in_words}): {step.advice(memory)}")


@contextlib.contextmanager
def explained_memory_errors(step: StepMemory) -> Iterator[None]:
    """Context manager: memory that does not suffice is an error of one line (see `memory_error`)."""
    try:
        yield
    except Exception as error:
        explained = memory_error(error, step)
        if explained is None:
            raise
        free_variables(error)
        raise explained from None


def free_variables(error: BaseException) -> None:
    """Delete the variables of the functions that failed: they would keep their memory occupied."""
    for cause in error_chain(error):
        traceback.clear_frames(cause.__traceback__)


# another process


def signal_error(error: BaseException) -> NotebookError | None:
    """The line for a process that a signal ended; None if the error is another one."""
    if not isinstance(error, ProcessExitedException) or not error.signal_name:
        return None
    killed = error.signal_name == "SIGKILL"
    return NotebookError(
        f"process {error.error_index} was ended by {error.signal_name}"
        f"{', usually because memory ran out' if killed else ''}: the last good checkpoint is kept; to resume, "
        f"run this again{', with more free memory' if killed else ''}"
    )


# the model and the data


def syntax_of(method: Callable) -> str:
    """The syntax tree of a method, without comments, layout and docstring."""
    statement = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    if isinstance(statement, ast.FunctionDef) and ast.get_docstring(statement) is not None:
        del statement.body[0]
    return ast.dump(statement)


def methods_of(module_class: type) -> dict[str, str]:
    """{name: syntax tree} of the methods of a class. The source of a class itself is unknown in a notebook."""
    methods = filter(inspect.isfunction, vars(module_class).values())
    return {method.__name__: syntax_of(method) for method in methods}


def is_unedited(module_class: type) -> bool:
    """Whether a class is the library's MaskedLM, or has the same methods, as in 04. Comments may differ."""
    try:
        return methods_of(module_class) == methods_of(MaskedLM)
    except (OSError, SyntaxError):  # no source; a part of a statement, such as a lambda
        return False


def is_own_code(frame: FrameType) -> bool:
    """Whether a function is neither the user's nor a test's: of a package, of Python or of this suite."""
    function, filename = frame.f_code.co_name, frame.f_code.co_filename
    module_name = frame.f_globals.get("__name__", "")
    if module_name == "__main__":  # a notebook
        return function == "<module>" or function in vars(MaskedLM)
    return (
        module_name.startswith(OWN_MODULES)
        or filename.startswith(OWN_FILES)
        or any(part.startswith(OWN_FOLDERS) for part in Path(filename).parts)
    )


def added_callbacks(callbacks: Iterable[Any]) -> list[Any]:
    """The callbacks that are not of this suite."""
    return [each for each in callbacks if not type(each).__module__.startswith(OWN_MODULES)]


def model_error(
    error: BaseException, module: Any, path: Path, callbacks: Iterable[Any] = ()
) -> NotebookError | None:
    """The line for an error that stems from the model or the data; None if code of the user took part.

    module: the MaskedLM. path: the file that will contain the whole traceback. callbacks: of the Trainer.
    One that was added may fail without any function of its own, by its arguments for example.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, NotebookError | OSError) or not isinstance(error, Exception):
        return None
    if added_callbacks(callbacks) or not (
        is_unedited(type(module)) and all(map(is_own_code, frames))
    ):
        return None
    message = str(error).strip().partition("\n")[0][:200]
    cause = next(text for pattern, text in CAUSES.items() if re.search(pattern, message))
    kind = getattr(module.bert.config, "model_type", "unknown")
    return NotebookError(
        f"training the {kind!r} model failed ({type(error).__name__}: {message}): {cause}; the traceback "
        f"is in {path}"
    )
