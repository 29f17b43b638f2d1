"""The model card: how the model was trained and how good it is, in the format of the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mlm.env.files import atomic_write, write_text
from mlm.env.names import HUB_NAME, public_name, text_name
from mlm.optim.recipe import RECIPE_SETTINGS
from mlm.plots.training import curve_image
from mlm.training.forgetting import describe_forgetting

TEXT = """\
# {name}

A masked language model: it predicts masked tokens of a text. It was trained from {origin} on {text}
for {steps:,} steps. {verdict}.

{comparison}

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model=".")  # this folder, or the model's name on the Hub
fill_mask(f"This is a {{fill_mask.tokenizer.mask_token}}.")
```

## Evaluation

{validation_set}
15% of the tokens of the validation set are masked. The loss is in nats per masked token, perplexity is
exp(loss), and accuracy is the fraction of masked tokens for which the most probable prediction is correct.

| | loss | perplexity | accuracy |
|---|---|---|---|
| before training | {before} |
| unigram baseline (word frequencies alone) | {baseline:.3f} | | |
| this model ({kept} weights, from step {step:,}) | {after} |

{forgetting}![Training loss, validation loss and unigram baseline over optimizer steps](curve.png)

## Training

| | |
|---|---|
| text | {text}, {lines:,} lines, {tokens:,} training tokens |
| SHA-256 of the text | `{sha256}` |
{replay}| training | {steps:,} steps, {tokens_seen:,} tokens seen, {seconds:,.0f} s on {device}, matrix products in {precision} |
| recipe | {recipe} |
| seed | {seed} |
| versions | {versions} |

## Limitations

The model predicts what is likely in texts like its training text, not what is true. It repeats the
prejudices of that text. This card names no licence: the licences of the text and of a pretrained model apply.
"""


FORGETTING = """\
What the model forgets while it learns this text: {sentence}.

| general text | loss | perplexity | accuracy |
|---|---|---|---|
| before training | {before} |
| this model | {after} |

"""


def quoted(name: str) -> str:
    """A name as code in one line of Markdown, whatever it contains."""
    return "`" + " ".join(name.replace("`", "'").replace("|", "/").split()) + "`"


def table_row(metrics: dict[str, float]) -> str:
    """The cells of a table row for {"loss", "perplexity", "accuracy"}."""
    return "{loss:.3f} | {perplexity:,.5g} | {accuracy:.1%}".format(**metrics)


def describe_split(split: dict[str, Any] | None, valid_corpus: str | None) -> str:
    """What the validation set is, in sentences. `split` is from run.json; None: of an earlier version."""
    name = f"The text {quoted(public_name(valid_corpus))}" if valid_corpus else ""
    if split is None:
        return f"{name or 'A tenth of the text'} is the validation set. Lines of it may occur in the training text, too."
    rule = split["rule"].replace("valid_corpus", name)
    return (
        f"{rule[0].upper()}{rule[1:]} ({split['removed']:,} removed): none of its {split['valid']:,} lines "
        "occurs in the training text."
    )


def forgetting_text(measured: dict[str, Any] | None) -> str:
    """The part of a card about forgetting; empty if it was not measured, as in an earlier version."""
    if measured is None:
        return ""
    return FORGETTING.format(
        sentence=describe_forgetting(measured | {"text": quoted(measured["text"])}),
        before=table_row(measured["before"]),
        after=table_row(measured["after"]),
    )


def replay_row(replay: dict[str, Any] | None) -> str:
    """The row of a card's table about replayed text; empty if there is none."""
    if replay is None:
        return ""
    text = quoted(replay["source"])
    return f"| replay | {replay['fraction']:.3g} of the examples of each epoch are of {text} |\n"


def card_data(name: str, results: dict[str, Any], widget: Sequence[str] = ()) -> ModelCardData:
    """The metadata of a card that the Hub reads, with the metrics of the weights that are kept.

    widget: the sentences that the model's page offers to try, with the tokenizer's mask token.
    """
    source, model = text_name(results["data"]["source"]), results["model"]["name"]
    on_hub = HUB_NAME.fullmatch(model) and not Path(model).exists()
    return ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=model if on_hub else None,
        widget=[{"text": " ".join(sentence.split())} for sentence in widget] or None,
        eval_results=[
            EvalResult(
                task_type="fill-mask",
                dataset_type="text",
                dataset_name=source,
                dataset_split="validation",
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in results["after"].items()
        ],
    )


def model_card(name: str, results: dict[str, Any], widget: Sequence[str] = ()) -> str:
    """The model card of the model `name` as YAML and Markdown, from a run's results (run.json).

    widget: see `card_data`.
    """
    data, training, hardware = results["data"], results["training"], results["hardware"]
    model, valid_corpus = results["model"]["name"], results["parameters"].get("valid_corpus")
    text = TEXT.format(
        name=name,
        origin=(
            f"random weights ({quoted(public_name(model))})"
            if model.startswith("scratch:")
            else quoted(public_name(model))
        ),
        text=quoted(text_name(data["source"])),
        validation_set=describe_split(data.get("split"), valid_corpus),
        verdict=results["verdict"]["text"],
        comparison=results["verdict"].get("comparison", ""),  # new in this version
        before=table_row(results["before"]),
        after=table_row(results["after"]),
        baseline=results["baseline"]["loss"],
        forgetting=forgetting_text(results.get("forgetting")),
        replay=replay_row(data.get("replay")),
        kept=results["kept"]["which"],
        step=results["kept"]["step"],
        lines=data["lines"],
        tokens=data["tokens"],
        sha256=data.get("text_sha256", data["sha256"]),  # in results of earlier versions the same
        steps=training["steps"],
        tokens_seen=training["tokens_seen"],
        seconds=training["seconds"],
        device=hardware["device"],
        precision=hardware["precision"],
        recipe=", ".join(f"{setting} {training[setting]}" for setting in RECIPE_SETTINGS),
        seed=results["parameters"]["seed"],
        versions=", ".join(f"{package} {v}" for package, v in results["versions"].items() if v),
    )
    return f"---\n{card_data(name, results, widget).to_yaml()}\n---\n\n{text}"


def write_card(
    folder: Path,
    name: str,
    results: dict[str, Any],
    history: list[dict[str, Any]],
    widget: Sequence[str] = (),
) -> None:
    """Write the model card README.md and its learning curve curve.png into a model's folder.

    widget: see `card_data`. Raises NotebookError if they cannot be written.
    """
    with atomic_write(folder / "curve.png") as file:
        file.write(curve_image(history, results["baseline"]["loss"]).data)
    write_text(folder / "README.md", model_card(name, results, widget))
