"""The plots of more than a few lines. Colours never stand alone: each is repeated by a sign or a label."""

import io

import matplotlib.pyplot as plt

# training


def draw_curve(ax, history, baseline):
    """Draw the learning curve: training loss, held-out loss, the unigram baseline (nats a masked token).

    `history` is a list of rows, as the journal keeps them.
    """
    for name, style, label in (
        ("train_loss", dict(color="0.6", lw=1), "training loss"),
        ("valid_loss", dict(color="C0", marker="o"), "held-out loss"),
    ):
        points = [(row["step"], row[name]) for row in history if name in row]
        ax.plot(*(zip(*points) if points else ([], [])), label=label, **style)
    ax.axhline(baseline, ls=":", color="C3", label="unigram baseline")
    ax.set(xlabel="optimizer step", ylabel="nats a masked token")
    ax.legend(frameon=False)


def curve_image(history, baseline):
    """The learning curve so far as a PNG that IPython displays."""
    from IPython.display import Image

    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    draw_curve(ax, history, baseline)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    plt.close(figure)
    return Image(file.getvalue())
