"""What tests of several packages share, besides fixtures."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

REFUSALS: list[tuple[float, str]] = []  # (seconds that it took, the error message)


@contextlib.contextmanager
def refused(*words: str) -> Iterator[Callable[[], str]]:
    """Context manager: the block must raise a NotebookError whose message contains all these words.

    The message must be a single line, and come within 20 seconds. Yields a function that returns it.
    """
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        yield lambda: str(caught.value)
    seconds, message = time.monotonic() - start, str(caught.value)
    REFUSALS.append((seconds, message))
    assert seconds < 20
    assert type(caught.value).__name__ == "NotebookError", repr(caught.value)
    assert len(message.splitlines()) == 1, message
    assert [word for word in words if word not in message] == [], message


# texts


WORDS = """
the of and a in to is was he for it with as his on be at by had not are but from have
philosopher's morality; instinct, truth? spirit! Apollo will to power nevertheless
beyond good evil (genealogy) human too naïve Übermensch 1886 well-being self-overcoming
"""


def sentences(count: int, seed: int | str = 0) -> list[str]:
    """Lines of 1 to 40 English words each, all different."""
    generator, words = random.Random(seed), WORDS.split()
    lines = (" ".join(generator.choices(words, k=generator.randint(1, 40))) for _ in range(count))
    return [f"{number} {line}" for number, line in enumerate(lines)]


# batches


def masked_loss(module: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The loss of a MaskedLM summed over the masked tokens, their logits (K, V) and labels (K,)."""
    from mlm.training.module import masked_labels  # imported here: it takes 2 seconds

    logits, labels = module.masked_logits(batch), masked_labels(batch)
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), logits, labels


def unpack_examples(
    batch: dict[str, Any], pad_token_id: int = 0
) -> list[tuple[list[int], list[int]]]:
    """The examples of a batch as (input_ids, labels), taken out of their rows."""
    input_ids, labels = batch["input_ids"], batch["labels"]
    sequence_ids = batch.get("sequence_ids", torch.ones_like(input_ids))
    default_positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    position_ids = batch.get("position_ids", default_positions)
    is_padding = sequence_ids == 0
    assert (input_ids[is_padding] == pad_token_id).all() and (labels[is_padding] == -100).all()

    examples = []
    for row in range(len(input_ids)):
        if (input_ids[row] == 0).all():  # an empty row
            continue
        for number in range(1, int(sequence_ids[row].max()) + 1):
            (columns,) = torch.where(sequence_ids[row] == number)
            first, last = int(columns[0]), int(columns[-1])
            assert columns.tolist() == list(range(first, last + 1))  # without gaps
            assert position_ids[row, columns].tolist() == list(range(len(columns)))
            examples.append((input_ids[row, columns].tolist(), labels[row, columns].tolist()))
    return examples


# processes


def start_python(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A new Python process that can import the library and the helpers, and runs this program."""
    folders = [str(ROOT / "tests"), str(ROOT / "notebooks")]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders}\n{program}"]
        + [str(argument) for argument in arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def peak_memory() -> int:
    """The largest memory of this process so far, in bytes (Linux).

    `resource.getrusage` would also count the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def json_output(process: subprocess.Popen[str]) -> Any:
    """What such a process prints, as JSON. Fails with its error messages."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out)
