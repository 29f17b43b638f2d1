"""What is missing in, or wrong with, a folder that is passed as `model`, and where to get it.

The files are inspected before transformers reads them: it would fail with a traceback, or silently use an
empty vocabulary.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mlm.env.files import read_json, short_repr
from mlm.env.notebook import NotebookError

WEIGHTS = "model.safetensors", "pytorch_model.bin"  # and their indexes, if there are several files
TOKENIZER_FILES = (  # a folder with a vocabulary has at least one
    "tokenizer.json", "vocab.txt", "vocab.json", "vocab.bpe", "merges.txt", "bpe.codes", "entity_vocab.json",
    "tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model",
    "vocab-src.json", "word_shape.json", "tekken.json",
)  # fmt: skip
JSON_FILES = (  # those that transformers reads, apart from config.json
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
)  # fmt: skip
LFS_POINTER = b"version https://git-lfs"


# A folder without config.json: what it is instead.


def lora_adapter(folder: Path) -> str | None:
    """A LoRA or another adapter of peft."""
    config = read_json(folder / "adapter_config.json")
    if not config and not (folder / "adapter_model.safetensors").exists():
        return None
    base = config.get("base_model_name_or_path") or "its base model"
    return (
        f"contains only an adapter (LoRA) of {short_repr(base)}; load both with peft, call "
        "merge_and_unload() and save_pretrained, and pass the folder that this writes"
    )


def other_framework(folder: Path) -> str | None:
    """Weights that transformers 5 cannot read."""
    kinds = {
        "a TensorFlow checkpoint": ("*.ckpt.index", "*.ckpt.meta", "saved_model.pb"),
        "TensorFlow weights": ("tf_model*.h5",),
        "Flax weights": ("flax_model*.msgpack",),
        "an ONNX file": ("*.onnx", "onnx/*.onnx"),
        "a GGUF file": ("*.gguf",),
    }
    for kind, patterns in kinds.items():
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return (
                f"contains {kind} and no PyTorch weights; pass the model in PyTorch's format "
                f"({WEIGHTS[0]}), which its author may offer on the Hub; "
                "transformers 4 converts TensorFlow and Flax (from_tf=True, from_flax=True)"
            )
    return None


def folder_of_models(folder: Path) -> str | None:
    """A folder whose subfolders are models: of a run, of several runs, of a Trainer, of the Hub's cache."""
    if (folder / "model").is_dir():
        return f"is the folder of a run, not of a model; pass {folder / 'model'}"
    patterns = "checkpoint-*", "*", "*/model", "snapshots/*"
    paths = {path for pattern in patterns for path in folder.glob(f"{pattern}/config.json")}
    found = {path.parent for path in paths if "model_type" in read_json(path)}
    if not found:
        return None

    def age(path: Path) -> tuple[int, float]:
        step = path.name.removeprefix("checkpoint-")
        return int(step) if step.isdecimal() else -1, (path / "config.json").stat().st_mtime

    names = ", ".join(sorted(str(path.relative_to(folder)) for path in found)[:5])
    newest = max(found, key=age)
    return (
        f"contains no model itself, only the folders of models ({names}); pass the folder of one, "
        f"such as {newest}"
    )


def other_weights(folder: Path) -> str | None:
    """A folder with weights or a vocabulary but without config.json."""
    names = {path.name for path in folder.iterdir()}
    if names & {*WEIGHTS} or list(folder.glob("*.safetensors")):
        return (
            "contains weights but no config.json, which says what they are; copy it from the model that "
            "they belong to or that was fine-tuned"
        )
    if files := sorted(path.name for path in folder.glob("*.ckpt")):
        return (
            f"contains a checkpoint of Lightning ({files[0]}), not a model; load it with your own module "
            "and save its transformers model with save_pretrained"
        )
    if names & {*TOKENIZER_FILES}:
        return "contains a tokenizer but no model (config.json and model.safetensors); copy them into it"
    return None


def not_a_model(folder: Path) -> str:
    """An empty folder, or any other one."""
    files = sorted(path.name for path in folder.iterdir())
    content = f"contains no config.json, only {', '.join(files[:3])}" if files else "is empty"
    return (
        f"{content}; pass a folder that save_pretrained wrote: config.json, model.safetensors and "
        "tokenizer.json"
    )


def without_config(folder: Path) -> str:
    """The end of a message about a folder without config.json."""
    return (
        lora_adapter(folder)
        or folder_of_models(folder)
        or other_framework(folder)
        or other_weights(folder)
        or not_a_model(folder)
    )


# A folder with config.json: whether it is complete.


def missing_model_type(config: dict[str, Any], known_types: set[str]) -> str | None:
    """The end of a message if a config has no model_type: what to add, as far as its content says."""
    if config.get("model_type"):
        return None
    architecture = str((config.get("architectures") or [""])[0])
    name = re.sub(r"(For|With|LMHead).*|Model$", "", architecture).lower()
    plain = {known.replace("-", "").replace("_", ""): known for known in known_types}
    guess = plain.get(name) or ("bert" if "type_vocab_size" in config else None)
    reason = f" (its architecture is {architecture})" if name in plain else ""
    entry = f'"model_type": "{guess}"' if guess else '"model_type" with the type, such as "bert",'
    return f"has no model_type in its config.json; add {entry} to it{reason}"


def damaged_json(folder: Path) -> str | None:
    """The end of a message if a file of a folder with config.json should contain JSON but does not."""
    names = sorted(path.name for path in folder.glob("*.index.json"))
    for path in (folder / name for name in ("config.json", *JSON_FILES, *names)):
        if not path.exists():
            continue
        try:
            content = path.read_bytes()
            if content.startswith(LFS_POINTER):
                return f"is incomplete: {path.name} is only a pointer of Git LFS; run `git lfs pull` in it"
            if isinstance(json.loads(content), dict):
                continue
            reason = "it is no JSON object"
        except (
            OSError,
            ValueError,
        ) as error:  # not only json.JSONDecodeError: also bytes that are no text
            reason = getattr(error, "strerror", None) or str(error)
        return f"has a damaged file: {path.name} ({reason}); copy it again from where the model comes from"
    return None


def incomplete_weights(folder: Path) -> str | None:
    """The end of a message if the weights of a folder are missing, truncated or only pointers."""
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    files = [path for path in files if not path.name.startswith("adapter_model")]
    readable = [folder / f"{name}{end}" for name in WEIGHTS for end in ("", ".index.json")]
    read = next(filter(Path.exists, readable), None)  # transformers reads only this one
    if read and read.name.endswith(".index.json"):
        needed = {*map(str, read_json(read).get("weight_map", {}).values())}
        if lost := sorted(name for name in needed if not (folder / name).exists()):
            return f"lacks {lost[0]} ({len(lost)} of {len(needed)} files of weights); copy it again"
    for path in sorted(files):
        if reason := damaged_weights(path):
            return f"has a damaged file: {path.name}: {reason}"
    if files:
        return None
    missing = f"has a config.json but no weights; copy {WEIGHTS[0]} into it from where the model was saved"
    return lora_adapter(folder) or other_framework(folder) or missing


def damaged_weights(path: Path) -> str | None:
    """What is wrong with a file of weights, as far as its first bytes say; None if nothing is."""
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "it is only a pointer of Git LFS; run `git lfs pull` in the folder"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):  # compares the tensors with the size of the file
                pass
        except (OSError, SafetensorError) as error:
            return f"{error}; copy or download it again"
    return None


def check_model_folder(
    model: str, folder: Path, known_types: set[str], needs_weights: bool = True
) -> None:
    """Raise NotebookError if `folder`, passed as `model`, is not the complete folder of a model.

    known_types: the model types of transformers that have a masked language model. needs_weights: whether
    the model itself is loaded, not only its tokenizer.
    """
    reason = None
    if (folder / "config.json").exists():
        reason = damaged_json(folder)
        if needs_weights and read_json(folder / "config.json").get("model_type") in known_types:
            reason = reason or incomplete_weights(folder)
    elif needs_weights or not has_tokenizer(folder):
        reason = without_config(folder)
    if reason:
        raise NotebookError(f"model={short_repr(model)} {reason}")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder contains a vocabulary."""
    return any((folder / name).exists() for name in TOKENIZER_FILES)


def check_config_folder(model: str, folder: Path) -> None:
    """Raise NotebookError if a folder whose configuration `model="scratch:..."` takes has none."""
    if (folder / "config.json").exists():
        reason = damaged_json(folder)
    else:
        found = folder_of_models(folder)
        reason = found or "contains no config.json; pass a folder with the configuration of a model"
    if reason:
        raise NotebookError(f"model={short_repr(model)} {reason}")


def check_vocabulary(model: str, tokenizer: Any, folder: Path) -> None:
    """Raise NotebookError if a tokenizer has only special tokens: transformers found no vocabulary.

    folder: the model's folder; on the Hub there is none.
    """
    vocabulary = tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens}
    if any(letter.isalnum() for token in vocabulary for letter in token):
        return
    files, parent = "tokenizer.json and tokenizer_config.json", folder.parent
    if folder.is_dir() and has_tokenizer(parent):
        where = f"copy {files} from {parent}"
    else:
        base = read_json(folder / "config.json").get("_name_or_path")
        where = (
            f"copy {files} (or vocab.txt) into it from the model that was fine-tuned"
            f"{f', {short_repr(base)}' if base else ''}, or call tokenizer.save_pretrained"
        )
    raise NotebookError(
        f"model={short_repr(model)} has {'an empty' if has_tokenizer(folder) else 'no'} vocabulary: "
        f"its tokenizer knows no words; {where}"
    )
