"""The code of the cell that loads the library: `tools/library.py` puts it below the embedded text."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


def load_library(embedded):
    """Make `import mlm` work: from the folder mlm/ next to this notebook, or from the text above.

    On Colab the text is written next to the notebook, where it can be edited; elsewhere to a temporary
    folder. A library that was edited since the last time is imported again.
    """
    folder, loaded = Path.cwd() / "mlm", sys.modules.get("mlm")
    next_to_notebook, on_colab = (folder / "env").is_dir(), "COLAB_RELEASE_TAG" in os.environ
    if not next_to_notebook and not on_colab:
        folder = Path(tempfile.mkdtemp(prefix="mlm-")) / "mlm"
        atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    for name, text in embedded.items():
        path = folder / name
        if not next_to_notebook or (on_colab and not path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    paths = sorted(folder.rglob("*.py"))
    texts = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}
    if getattr(loaded, "texts", None) != texts:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlm"]:
            del sys.modules[name]
        sys.path.insert(0, str(folder.parent))
        importlib.invalidate_caches()
        importlib.import_module("mlm").texts = texts
    differ = ", ".join(name for name in embedded if texts.get(name) != embedded[name])
    changed = f", which differs from this cell in {differ}" if differ else ""
    print("mlm:", f"the folder next to this notebook{changed}" if next_to_notebook else "embedded")


load_library(EMBEDDED)
