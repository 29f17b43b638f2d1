"""Models that are trained from scratch: what the NAME in `model="scratch:NAME"` may be. No package is imported.

NAME is one of SIZES, or a *source*: a Hub name or a folder of which only the configuration is used.
"""

import difflib
import os
from dataclasses import dataclass

PREFIX = "scratch:"


@dataclass(frozen=True)
class Size:
    """A model with random weights: its architecture (`model_type` in transformers), hidden size and layers.

    modern: ModernBERT's architecture (Warner et al. 2024, arXiv:2412.13663), otherwise BERT's.
    """

    hidden: int
    layers: int
    modern: bool = False

    @property
    def feed_forward(self) -> int:
        """The width between the two matrices of a feed-forward layer.

        BERT's is four times the hidden size. ModernBERT's layer has three matrices of this width instead of
        two, so 8/3 of the hidden size give as many weights; a multiple of 32 suits the processors.
        """
        return 32 * round(self.hidden / 12) if self.modern else 4 * self.hidden


WIDTHS = {  # name: (hidden size, layers)
    "tiny": (128, 2),  # tiny to small: Turc et al. 2019, arXiv:1908.08962
    "mini": (256, 4),
    "small": (512, 4),
    "base": (768, 12),  # Devlin et al. 2018, arXiv:1810.04805
}
MODERN = "modern-"
SIZES = {name: Size(*width) for name, width in WIDTHS.items()} | {
    MODERN + name: Size(*width, modern=True) for name, width in WIDTHS.items()
}


def scratch_size(model: str) -> Size | None:
    """The size that a `model` names, "scratch:tiny" for example; None if it names none."""
    return SIZES.get(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None


def scratch_source(model: str) -> str | None:
    """The folder or Hub name whose configuration `model="scratch:..."` takes; None for SIZES and other models."""
    if not model.startswith(PREFIX) or scratch_size(model):
        return None
    return model.removeprefix(PREFIX)


def is_scratch(model: str) -> bool:
    """Whether a value of the parameter `model` names a size or what may be a source.

    A single word without a dash, and a name close to one of SIZES, is a typing error unless there is such a
    folder: no masked language model on the Hub is called so.
    """
    source = model.removeprefix(PREFIX)
    if source in SIZES or (source.strip() and os.path.isdir(os.path.expanduser(source))):
        return True
    is_close = difflib.get_close_matches(source.strip().lower(), SIZES, cutoff=0.8)
    is_path = any(mark in source for mark in "/\\~")
    is_typo = is_close or source.startswith((PREFIX, MODERN))
    return is_path or ("-" in source and not is_typo)
