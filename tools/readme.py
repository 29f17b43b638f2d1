"""Hold what the README shows to what the notebooks store.

    python tools/readme.py check     exit 1 with a line for each difference
    python tools/readme.py fix       write it anew

Its picture is a figure of 03, its lines with gaps are printed by 05: outputs of real runs. Its table
of sizes is the one that 04 prints a row of.
"""

import base64
import re
import sys

from notebooks import ROOT, read

sys.path.insert(0, str(ROOT / "notebooks"))
from mlm.data.text_size import size_table

README, PICTURE = ROOT / "README.md", ROOT / "docs" / "masked-batch.png"


def outputs(notebook, cell):
    """The outputs that a cell of a notebook stores."""
    cells = read(ROOT / "notebooks" / f"{notebook}.ipynb").cells
    (found,) = [c.outputs for c in cells if c.id == cell]
    return found


def picture():
    """The masked batch, token by token, as a PNG."""
    (png,) = [
        o.data["image/png"]
        for o in outputs("03_dataset", "batch")
        if "image/png" in o.get("data", {})
    ]
    return base64.b64decode(png)


def learned(text):
    """The README with the lines that 05 prints."""
    printed = "".join(o.get("text", "") for o in outputs("05_predict", "gaps"))
    block = f"<!-- learned -->\n```text\n{printed.rstrip()}\n```\n<!-- /learned -->"
    return re.sub(r"<!-- learned -->.*<!-- /learned -->", lambda _: block, text, flags=re.S)


def written(text):
    """The README with all that is written from elsewhere: the lines of 05, the library's table of sizes."""
    rows = r"<!-- sizes -->\n(?:\|.*\n)+"
    return re.sub(rows, lambda _: f"<!-- sizes -->\n{size_table()}\n", learned(text))


def main(command):
    """Check or fix; the exit status."""
    text, png = README.read_text(encoding="utf-8"), picture()
    differ = [README.name] if written(text) != text else []
    differ += [PICTURE.name] if not PICTURE.exists() or PICTURE.read_bytes() != png else []
    if command == "fix":
        README.write_text(written(text), encoding="utf-8")
        PICTURE.write_bytes(png)
        return 0
    for name in differ:
        print(f"{name}: is not what the notebooks store: make fix")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
