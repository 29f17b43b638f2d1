"""The code of the cell that brings the library: `tools/library.py` puts it below the carried text."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


def bring_library(carried):
    """Make `import mlm` work: from the folder mlm/ beside this notebook, else from the text above.

    On Colab the text is laid beside the notebook, where it can be edited; elsewhere in a temporary
    folder. A library that was edited since the last time is read anew.
    """
    folder, loaded = Path.cwd() / "mlm", sys.modules.get("mlm")
    beside = (folder / "notebook.py").is_file()
    if not beside and "COLAB_RELEASE_TAG" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="mlm-")) / "mlm"
        atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    if not beside:
        folder.mkdir()
        for name, text in carried.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    if getattr(loaded, "texts", None) != texts:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlm"]:
            del sys.modules[name]
        sys.path.insert(0, str(folder.parent))
        importlib.invalidate_caches()
        importlib.import_module("mlm").texts = texts
    differ = sorted(n for n in {*texts, *carried} if texts.get(n) != carried.get(n))
    changed = f", which differs from this cell's in {', '.join(differ)}" if differ else ""
    print(
        "mlm:", f"the folder beside this notebook{changed}" if beside else "as carried in this cell"
    )


bring_library(CARRIED)
