"""Copy results of real runs into the README and its documentation.

    python tools/readme.py check     exit 1 with one line for each file that differs
    python tools/readme.py fix       write the files

Five things are copied: the picture of a masked batch that 03 stores, the predictions that 05 stores, the
training time that 04 stores, and from the library the table of suggested settings by text size and the table
of models from scratch.
"""

import base64
import re
import sys
from pathlib import Path

from nbformat import NotebookNode

from blocks import with_block
from notebooks import ROOT, read

sys.path.insert(0, str(ROOT / "notebooks"))
from mlm.data.text_size import LARGER_TEXTS, MEASURED, PRETRAINED, RESULTS, measurements, time_mark
from mlm.env.scratch import SIZES

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "masked-batch.png"
YOUR_TEXT = ROOT / "docs" / "your-text.md"
MODELS = ROOT / "docs" / "models.md"
PICTURE_CELL = "03_dataset", "batch"
PREDICTIONS_CELL = "05_predict", "examples"
NUM_PREDICTIONS = 3
TIME_CELL = "04_train", "record"
DTYPE_CELL = "04_train", "hardware"
CPU_CELL = "01_setup", "devices"


def outputs(notebook: str, cell: str) -> list[NotebookNode]:
    """The outputs that a cell of a notebook stores; raises SystemExit where there is no such cell."""
    found = {c.id: c for c in read(ROOT / "notebooks" / f"{notebook}.ipynb").cells}
    if cell not in found:
        raise SystemExit(f"{notebook}.ipynb has no cell {cell!r}, whose output the README shows")
    return found[cell].outputs


def picture() -> bytes:
    """The masked batch of 03, one box per token, as a PNG."""
    images = [output.get("data", {}).get("image/png") for output in outputs(*PICTURE_CELL)]
    found = [image for image in images if image]
    if len(found) != 1:
        raise SystemExit(
            f"the cell {PICTURE_CELL[1]!r} of {PICTURE_CELL[0]}.ipynb must store one picture, "
            f"it stores {len(found)}: make outputs"
        )
    return base64.b64decode(found[0])


def predictions() -> str:
    """The first predictions that 05 prints, as a Markdown block. An empty line separates them."""
    printed = "".join(output.get("text", "") for output in outputs(*PREDICTIONS_CELL)).rstrip()
    if not printed:
        raise SystemExit(
            f"the cell {PREDICTIONS_CELL[1]!r} of {PREDICTIONS_CELL[0]}.ipynb stores no text: "
            "make outputs"
        )
    first = "\n\n".join(printed.split("\n\n")[:NUM_PREDICTIONS])
    return f"```text\n{first}\n```"


def found_in(cell: tuple[str, str], pattern: str) -> str:
    """The group of a pattern in the text that a cell stores; raises SystemExit if it does not occur."""
    texts = (o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs(*cell))
    match = re.search(pattern, "".join(texts))
    if not match:
        raise SystemExit(
            f"the cell {cell[1]!r} of {cell[0]}.ipynb must store {pattern!r}: make outputs on a CPU"
        )
    return match[1]


def training_time() -> str:
    """A sentence on how long the stored run of 04 trained, and on what."""
    time = found_in(TIME_CELL, r"training time\s+([\d,.]+ s) on cpu")
    dtype = found_in(DTYPE_CELL, r"matrix products in torch\.(\w+)")
    cpu = found_in(CPU_CELL, r"CPU\s+(\d+ cores?, \w+)")
    return (
        f"Training took {time} on an idle machine ({cpu}, {dtype}; [which CPU](docs/your-text.md), and "
        "why yours may take three times as long)."
    )


def size_table() -> str:
    """Suggested settings by text size, with all results, as a Markdown table."""
    times = "training, Intel CPU, float32", "training, AMD CPU, bfloat16, earlier version"
    header = ["text", "settings", *MEASURED, *times]
    rows = [header, ["---"] * len(header)]
    for result in RESULTS:
        pretrained = result.model == PRETRAINED
        model = f"{PRETRAINED}, `" if pretrained else f"`-p model {result.model} "
        seconds = [f"{s} s{time_mark(result)}" for s in (result.seconds, result.bf16_seconds)]
        settings = f"{model}-p epochs {result.epochs}`"
        rows.append([result.text, settings, *measurements(result), *seconds])
    rows.append(["more", LARGER_TEXTS, "not measured", *[""] * (len(header) - 3)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def scratch_table() -> str:
    """The models from scratch as a Markdown table; weights in layers, without embeddings, head and biases."""
    rows = [
        "| name | architecture | layers | hidden size | feed-forward width | weights in layers |",
        "|---" * 6 + "|",
    ]
    for name, size in SIZES.items():
        matrices = 3 if size.modern else 2  # of a feed-forward layer
        weights = size.layers * size.hidden * (4 * size.hidden + matrices * size.feed_forward)
        architecture = "ModernBERT" if size.modern else "BERT"
        cells = (
            f"`{name}`",
            architecture,
            size.layers,
            size.hidden,
            f"{size.feed_forward:,}",
            f"{weights / 1e6:.2f} million",
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def expected() -> dict[Path, bytes]:
    """{path: content} of every file that shows a result, with the current results."""
    readme = README.read_text(encoding="utf-8")
    readme = with_block(readme, "time", training_time(), README.name)
    your_text = YOUR_TEXT.read_text(encoding="utf-8")
    models = MODELS.read_text(encoding="utf-8")
    return {
        MODELS: with_block(models, "scratch", scratch_table(), MODELS.name).encode(),
        README: with_block(readme, "learned", predictions(), README.name).encode(),
        YOUR_TEXT: with_block(your_text, "sizes", size_table(), YOUR_TEXT.name).encode(),
        PICTURE: picture(),
    }


def main(command: str) -> int:
    """Check or fix; the exit status."""
    differ = [
        path for path, new in expected().items() if not path.exists() or path.read_bytes() != new
    ]
    for path in differ:
        if command == "fix":
            path.write_bytes(expected()[path])
            print(f"{path.name}: written")
        else:
            print(f"{path.name} differs from what the notebooks store: make fix")
    return 1 if differ and command != "fix" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
