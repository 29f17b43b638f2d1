"""The cause of an error in one line, where it is known: memory that does not suffice."""

import contextlib
import errno
import math
import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from mlm.env.hardware import Card
from mlm.env.notebook import NotebookError
from mlm.optim.recipe import choose_batch_size

OUT_OF_MEMORY = re.compile(  # CUDA, MPS, XLA; cuBLAS and cuDNN; torch's CPU allocator; NumPy
    "out of memory|RESOURCE_EXHAUSTED|_ALLOC_FAILED|can't allocate memory|not enough memory"
    "|unable to allocate",
    re.IGNORECASE,
)


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of its cause, ..."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory could not be allocated."""
    return any(
        isinstance(cause, MemoryError | torch.OutOfMemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError) and OUT_OF_MEMORY.search(str(cause)))
        for cause in error_chain(error)
    )


def available_memory(error: BaseException, kind: str) -> tuple[Card, str]:
    """(card, in words) of the memory that did not suffice; `card.memory` is what this process may use.

    kind: "cpu", "gpu" or "tpu". Memory of the computer counts as a card, too.
    """
    texts = " ".join(str(cause) for cause in error_chain(error))
    on_host = any(type(cause) is MemoryError for cause in error_chain(error)) or re.search(
        "CPUAllocator|unable to allocate", texts, re.IGNORECASE
    )
    if kind == "gpu" and not on_host and torch.cuda.is_initialized():
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved()
        in_words = f"the {card.name} has {total / 1e9:.1f} GB"
        if others := max(0, total - free - own) // 10**9:
            in_words += f", of which {others} GB are used by others"
        return Card(card.name, free + own, (card.major, card.minor)), in_words
    import psutil

    memory = psutil.virtual_memory()
    in_words = f"this computer has {memory.total / 1e9:.1f} GB"
    return Card("computer", memory.total, (0, 0)), in_words


def advice(settings: dict[str, Any], card: Card) -> str:
    """The batch size that probably fits, with the gradient accumulation that makes up for it."""
    batch_size, accumulate = settings["batch_size"], settings.get("accumulate")
    if batch_size == 1:
        return "pass a smaller max_len or a smaller model"
    dtype = getattr(torch, settings["dtype"].removeprefix("torch."))
    device = {"kind": "gpu", "card": card, "dtype": dtype}  # also of a CPU: its memory decides
    fitting, _ = choose_batch_size(None, settings["model"], settings["max_len"], device)
    fitting = min(fitting, batch_size // 2)
    if accumulate is None:
        return f"pass batch_size={fitting} (estimated to fit)"
    batches = math.ceil(accumulate * batch_size / fitting)
    same = " for the same step" if batches * fitting == accumulate * batch_size else ""
    return f"pass batch_size={fitting}, accumulate={batches}{same} (estimated to fit)"


def explain(error: BaseException, settings: dict[str, Any]) -> NotebookError | None:
    """The NotebookError that says in one line why memory did not suffice; None for other errors.

    settings: batch_size, accumulate (unless the notebook has no such parameter), model, max_len, device
    (its kind) and dtype (as text), as in `run_settings`.
    """
    if isinstance(error, NotebookError) or not is_out_of_memory(error):
        return None
    card, in_words = available_memory(error, settings["device"])
    names = [name for name in ("batch_size", "accumulate") if name in settings]
    given = ", ".join(f"{name}={settings[name]}" for name in names)
    return NotebookError(f"{given}: out of memory ({in_words}); {advice(settings, card)}")


@contextlib.contextmanager
def explained_errors(settings: dict[str, Any]) -> Iterator[None]:
    """Context manager: an error whose cause is known becomes a NotebookError (see `explain`).

    The variables of the functions that failed are deleted: they would keep the memory occupied.
    """
    try:
        yield
    except Exception as error:
        explained = explain(error, settings)
        if explained is None:
            raise
        traceback.clear_frames(error.__traceback__)
        raise explained from None
