"""What check.py and measure.py share: options, folders, and the files that results are written to.

check.py sets the environment variables; measure.py, in a process of its own, reads them.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def option(name: str, default: Any) -> str:
    """The value of an option, as an environment variable that child processes inherit."""
    return os.environ.setdefault(f"GPU_CHECK_{name}", str(default))


def began() -> float:
    """When check.py began, in seconds since the epoch."""
    return float(option("BEGAN", time.time()))


def rehearsing() -> bool:
    """Whether everything runs on the CPU, with tiny models."""
    return option("REHEARSE", 0) == "1"


def device() -> str:
    """The device that is checked."""
    return "cpu" if rehearsing() else "cuda"


def out_folder() -> Path:
    """The folder for results."""
    return Path(option("OUT", ROOT / "runs" / "gpu"))


def work_folder() -> Path:
    """The folder for everything else; it is deleted at the end."""
    return Path(option("WORK", "."))


def text() -> str:
    """The corpus: a file, or "pydoc"."""
    return option("TEXT", "pydoc")


def vocabulary() -> str:
    """The path of BERT's vocab.txt; empty: one is learned from the text."""
    return option("VOCAB", "")


def model_size() -> str:
    """The size of the "scratch:" models whose speed is measured."""
    return "tiny" if rehearsing() else "base"


def log(message: str, process: str = "check") -> None:
    """Add a line to log.txt."""
    with open(out_folder() / "log.txt", "a") as file:
        file.write(f"{time.time() - began():6.1f} [{process}] {message}\n")


def write_result(step: str, **figures: Any) -> None:
    """Add a line to results.jsonl, and show its beginning."""
    line = json.dumps({"step": step, "at": round(time.time() - began(), 1), **figures}, default=str)
    with open(out_folder() / "results.jsonl", "a") as file:
        file.write(line + "\n")
    print(line[:200], flush=True)


def rounded(value: Any, digits: int = 4) -> Any:
    """Figures with this number of significant digits."""
    if isinstance(value, dict):
        return {name: rounded(v, digits) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
