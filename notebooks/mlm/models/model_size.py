"""How large a model is by its config, before it is built: whether its sizes are possible and its weights fit.

A size that is wrong by some zeros would otherwise fill the memory, until the operating system ends the kernel.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

SIZE_ENTRIES = (  # of a config; each is at least 1 in every kind of model that has it
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
MANY_LAYERS = 64  # a model with more takes long to build, even without memory
MAX_LAYERS = 1000  # known models have at most 200; 10,000 layers take minutes to build
BYTES_PER_WEIGHT = 4  # in float32
CGROUPS = "/proc/self/cgroup"  # Linux: the control groups of this process
CGROUP_LIMITS = {  # controller: folder of all groups, file with the limit in bytes; of version 2 and 1
    "": ("/sys/fs/cgroup", "memory.max"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}


def memory_limit_files() -> Iterator[Path]:
    """The files that may limit the memory of this process: of its control groups, which a container or a job has."""
    groups = ["0::/", "0:memory:/"]  # in a container, these are its own
    with contextlib.suppress(OSError):
        groups += Path(CGROUPS).read_text().splitlines()
    for group in groups:
        _, controllers, path = group.split(":", 2)
        for name in CGROUP_LIMITS.keys() & {*controllers.split(",")}:
            root, file = CGROUP_LIMITS[name]
            folder = Path(root + path)
            yield from (parent / file for parent in (folder, *folder.parents))


def host_memory() -> int:
    """The memory of this computer in bytes, or of the container or job that this process is in, if it has less."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for path in memory_limit_files():
        with contextlib.suppress(OSError, ValueError):  # no such file; "max": no limit
            limits.append(int(path.read_text()))
    return min(limits)


def layers_entry(config: Any) -> str:
    """How this kind of model calls the number of its layers in config.json."""
    return config.get_text_config().attribute_map.get("num_hidden_layers", "num_hidden_layers")


def sizes(config: Any) -> dict[str, int]:
    """{entry of config.json: value} of the sizes of a model, as far as its kind has them."""
    text_config = config.get_text_config()
    found = {name: getattr(text_config, name, None) for name in SIZE_ENTRIES}
    names = text_config.attribute_map  # some kinds have other names in their files
    return {names.get(name, name): value for name, value in found.items() if isinstance(value, int)}


def check_sizes(model: str, config: Any, ignored: tuple[str, ...] = ()) -> None:
    """Raise NotebookError if a size in a model's config is impossible, or if its weights cannot fit here.

    ignored: entries that will be replaced before the model is built.
    """
    given = {name: value for name, value in sizes(config).items() if name not in ignored}
    for name, value in given.items():
        most = MAX_LAYERS if name == layers_entry(config) else math.inf
        if not 1 <= value <= most:
            valid = "at least 1" if most == math.inf else f"1 to {most:,}"
            raise NotebookError(
                f"model={short_repr(model)}: {name} must be {valid} in its config.json, got {value}; "
                "correct it, or copy config.json again from where the model comes from"
            )
    if ignored:
        config = copy.deepcopy(config)
        text_config = config.get_text_config()
        few = max(text_config.pad_token_id or 0, 0) + 1  # tokens: padding must be one
        text_config.update(dict.fromkeys(ignored, few))
    needed, memory = BYTES_PER_WEIGHT * (count_weights(config) or 0), host_memory()
    if needed > memory:
        raise NotebookError(
            f"model={short_repr(model)} does not fit into memory: by its config.json "
            f"({describe_sizes(given)}), its weights take {needed / 1e9:,.0f} GB, and this computer has "
            f"{memory / 1e9:.1f} GB; correct config.json, or pass a smaller model"
        )


def describe_sizes(given: dict[str, int]) -> str:
    """Sizes as text, as they are written in config.json."""
    return ", ".join(f'"{name}": {value}' for name, value in given.items())


def count_weights(config: Any) -> int | None:
    """The number of weights of a masked language model with this config, without memory for them.

    None if this kind of model cannot be built without memory, or if its config is not valid.
    """
    num_layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    try:
        if num_layers <= MANY_LAYERS:
            return count_without_memory(config)
        one, two = (count_without_memory(with_layers(config, number)) for number in (1, 2))
        return one + (num_layers - 1) * (two - one)
    except Exception:  # every kind raises another type
        return None


def count_without_memory(config: Any) -> int:
    """The number of weights of a model on PyTorch's device "meta", where tensors have no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def with_layers(config: Any, number: int) -> Any:
    """A copy of a config with another number of layers."""
    changed = copy.deepcopy(config)
    changed.get_text_config().num_hidden_layers = number
    return changed
