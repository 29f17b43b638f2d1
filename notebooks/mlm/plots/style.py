"""What the figures have in common. Colours are always repeated by a hatch, a marker or a label."""

from typing import Any

LOSS_UNIT = "nats per masked token"


def hide_frame(ax: Any) -> None:
    """Remove the top and right edges of a plot."""
    ax.spines[["top", "right"]].set_visible(False)
