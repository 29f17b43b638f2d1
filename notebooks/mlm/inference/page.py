"""A folder with a page that predicts masked words in the browser, without Python and without a network."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.env.files import absolute_path, write_text
from mlm.env.names import public_name
from mlm.env.notebook import NotebookError
from mlm.inference.browser_tokenizer import browser_tokenizer
from mlm.inference.export import check_onnx
from mlm.inference.npm_packages import check_archives, unpack_archives
from mlm.inference.page_template import PAGE
from mlm.models.probe import longest_input

MAX_TOKENS = 512  # of a sentence on the page, even if the model takes more: a browser is slow


def check_page(page: bool, folder: Path | None, workdir: str | Path) -> None:
    """Raises NotebookError if a page is requested but cannot be written.

    `folder` is the folder of a run, or None if there is none; `workdir` contains the archives of npm.
    """
    if not page:
        return
    check_onnx(page, folder is not None, "page")
    if folder and not (folder / "model" / "tokenizer.json").is_file():
        raise NotebookError(
            f"page=True: the tokenizer of {folder / 'model'} has no fast version (tokenizer.json), so a "
            "browser cannot run it; leave page out"
        )
    check_archives(absolute_path("workdir", workdir))


def write_page(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    sentence: str,
    workdir: str | Path,
) -> Path:
    """Write the page of a run to `folder`/page, next to the model that is there; returns its folder.

    The page begins with `sentence`. `workdir` contains the archives of npm. Raises NotebookError if they
    are missing, a file cannot be written, or the browser cannot run the tokenizer.
    """
    page = folder / "page"
    unpack_archives(absolute_path("workdir", workdir), page)
    javascript = (page / "tokenizers.mjs").read_text(encoding="utf-8")
    content, checks = browser_tokenizer(tokenizer, javascript)
    about = {
        "name": folder.name,
        "about": f"{public_name(results['parameters']['model'])}, {model.num_parameters():,} parameters",
        "sentence": " ".join(sentence.split()),  # the page's field has one line
        "mask": tokenizer.mask_token,
        "maskId": tokenizer.mask_token_id,
        "maxTokens": longest_input(model, MAX_TOKENS),
        "checks": checks,
    }
    write_text(page / "tokenizer.json", json.dumps(content, ensure_ascii=False))
    write_text(page / "page.json", json.dumps(about, ensure_ascii=False))
    write_text(page / "index.html", PAGE)
    return page
