"""The card that goes with a model: from what it was made, how, and how good it is, as the Hub reads it."""

from pathlib import Path
from urllib.parse import urlparse

from huggingface_hub import EvalResult, ModelCardData

from mlm.env.files import atomic_write
from mlm.env.hub import HUB_NAME
from mlm.optim.recipe import RECIPE_SETTINGS
from mlm.plots.figures import curve_image

TEXT = """\
# {name}

A masked language model: some tokens of a text are hidden, and it says which they were. It began with
{origin} and was trained on {text} for {steps:,} steps. In short: {verdict}.

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model=".")  # this folder, or what it is called on the Hub
fill_mask(f"This is a {{fill_mask.tokenizer.mask_token}}.")
```

## How good it is

Measured on {held_out}, which it never trained on. Of their tokens 15% are asked about; loss in nats and
perplexity are those of a masked token, accuracy is the share of first guesses that are right.

| | loss | perplexity | accuracy |
|---|---|---|---|
| before training | {before} |
| word frequencies alone | {baseline:.3f} | | |
| this model ({kept} weights, of step {step:,}) | {after} |

![Training and held-out loss over optimizer steps, and the loss of word frequencies alone](curve.png)

## How it was made

| | |
|---|---|
| text | {text}, {lines:,} lines, {tokens:,} tokens to train on |
| its SHA-256 | `{sha256}` |
| training | {steps:,} steps, {tokens_seen:,} tokens seen, {seconds:,.0f} s on {device}, matrix products in {precision} |
| recipe | {recipe} |
| seed | {seed} |
| versions | {versions} |

## What to mind

It says what is likely in texts like this one, not what is true, and it repeats what is said in them,
prejudice included. No licence is named here: the text's, and that of a pretrained model that it began with, hold.
"""


def public_name(name):
    """A text's or a model's name as others may read it: of a path what it ends with, not where it lies.

    A text may be a list of texts.
    """
    if isinstance(name, list):
        return ", ".join(map(public_name, name))
    address = urlparse(name).scheme in ("http", "https")
    return name if address or not Path(name).is_absolute() else Path(name).name


def quoted(name):
    """A name in a line of Markdown, whatever it contains."""
    return "`" + " ".join(name.replace("`", "'").replace("|", "/").split()) + "`"


def table_row(figures):
    """The cells of a table for {"loss", "perplexity", "accuracy"}."""
    return "{loss:.3f} | {perplexity:,.5g} | {accuracy:.1%}".format(**figures)


def card_data(name, record):
    """What the Hub reads of a card: a ModelCardData with the held-out figures of the kept weights."""
    source, model = public_name(record["data"]["source"]), record["model"]["name"]
    about = dict(task_type="fill-mask", dataset_type="text", dataset_name=source)
    on_hub = HUB_NAME.fullmatch(model) and not Path(model).exists()
    return ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=model if on_hub else None,
        eval_results=[
            EvalResult(**about, dataset_split="held out", metric_type=of, metric_value=value)
            for of, value in record["after"].items()
        ],
    )


def model_card(name, record):
    """The text of a model card, Markdown below YAML, of a run's record; `name` is the model's."""
    model, made, kept = record["model"]["name"], record["training"], record["kept"]
    scratch, own = model.startswith("scratch:"), record["parameters"].get("valid_corpus")
    text = TEXT.format(
        name=name,
        origin=f"random weights ({quoted(model)})" if scratch else quoted(public_name(model)),
        text=quoted(public_name(record["data"]["source"])),
        held_out=f"the lines of {quoted(public_name(own))}"
        if own
        else "held-out lines of the text, every tenth run of them",
        verdict=record["verdict"]["text"],
        before=table_row(record["before"]),
        after=table_row(record["after"]),
        baseline=record["baseline"]["loss"],
        kept=kept["which"],
        step=kept["step"],
        recipe=", ".join(f"{of} {made[of]}" for of in RECIPE_SETTINGS),
        seed=record["parameters"]["seed"],
        versions=", ".join(f"{of} {v}" for of, v in record["versions"].items() if v),
        **{of: record["data"][of] for of in ("lines", "tokens", "sha256")},
        **{of: made[of] for of in ("steps", "tokens_seen", "seconds")},
        **{of: record["hardware"][of] for of in ("device", "precision")},
    )
    return f"---\n{card_data(name, record).to_yaml()}\n---\n\n{text}"


def write_card(folder, name, record, history):
    """Write a model card, README.md, and the learning curve in it, curve.png, into a model's folder.

    `history` is the journal's. Raises NotebookError where they cannot be written.
    """
    with atomic_write(folder / "curve.png") as file:
        file.write(curve_image(history, record["baseline"]["loss"]).data)
    with atomic_write(folder / "README.md", "w", encoding="utf-8", newline="\n") as file:
        file.write(model_card(name, record))
