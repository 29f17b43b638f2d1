"""Sentences to try a model with: lines of its run's validation set, or neutral ones."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mlm.inference.validation_examples import NO_LINE, validation_examples

NUM_LINES = 20
NEUTRAL_LINES = {  # everyday English, with its [MASK]
    "The name of the city is not known.": "The [MASK] of the city is not known.",
    "He opened the door and went into the house.": "He opened the [MASK] and went into the house.",
    "They said that the work would take a long time.": "They said that the [MASK] would take a long time.",
    "The water was cold, and the night was long.": "The water was [MASK], and the night was long.",
}
NEUTRAL_SENTENCE = next(iter(NEUTRAL_LINES.values()))  # not from any corpus


def example_sentences(
    tokenizer: PreTrainedTokenizerBase, results: dict[str, Any] | None, workdir: str | Path
) -> tuple[list[str], list[str]]:
    """Up to NUM_LINES lines that suit a model, and the same lines with one masked word each.

    They are validation lines of its run, chosen as by `validation_examples`; or NEUTRAL_LINES if there is
    no run (`results` is None), or, with a line that says so, if its corpus is not in `workdir` or has no
    line that fits.
    """
    examples = (
        validation_examples({}, tokenizer, results, workdir, num_examples=NUM_LINES)
        if results
        else []
    )
    if results and not examples:
        print(f"The lines are everyday English: {NO_LINE}.")
    lines = {e.line: e.sentence for e in examples} or NEUTRAL_LINES
    return list(lines), list(lines.values())
