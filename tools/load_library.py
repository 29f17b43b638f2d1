"""The code of the library cell. tools/library.py puts it into each notebook, below the embedded text."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


def load_library(embedded: dict[str, str]) -> None:
    """Make `import mlm` work: from the folder mlm/ next to this notebook, or from the text above.

    On Colab the text is written to mlm/ next to the notebook, where you can edit it; elsewhere to a
    temporary folder. Run this cell again to reload the library after an edit.
    """
    folder, loaded = Path.cwd() / "mlm", sys.modules.get("mlm")
    on_colab = "COLAB_RELEASE_TAG" in os.environ
    next_to_notebook = (folder / "env").is_dir()  # any other folder mlm/ is somebody else's
    if not next_to_notebook and (not on_colab or folder.exists()):
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
    if differ and on_colab:  # an edit of yours, or the library of an earlier version
        changed += "; if you did not edit it, delete the folder mlm and run this cell again"
    print("mlm:", f"the folder next to this notebook{changed}" if next_to_notebook else "embedded")


load_library(EMBEDDED)
