"""The parameters of 04."""

import re

from mlm.env.loggers import LOGGERS, NO_LOGGER, is_logger
from mlm.models.kernels import KERNELS
from mlm.optim.schedule import SCHEDULES
from mlm.parameters.check import P, Valid, either, join_or, literal, number, one_of
from mlm.parameters.devices import DEVICES
from mlm.parameters.text import (
    A_RUN_NAME,
    CORPUS,
    EXAMPLES,
    MASKING,
    MAX_LEN,
    MODEL,
    READING,
    SEED,
    TEXTS,
    VALID_CORPUS,
    VOCABULARY,
    WORKDIR,
    is_text,
)


def is_replacement(value: str) -> bool:
    return bool(re.fullmatch(r"\d+/\d+/\d+", value)) and sum(map(int, value.split("/"))) == 100


LOGGER = Valid(
    f"{join_or(map(literal, (*LOGGERS, NO_LOGGER)))}, or a list of several, without {literal(NO_LOGGER)}",
    is_logger,
)
POSITIVE = number(at_least=1)
RECIPE = "the recipe's"

# fmt: off
PARAMETERS = {  # {heading in the parameters cell: parameters}
    "Most used": [
        CORPUS,
        MODEL,
        P("epochs", "int", 1, "passes over the training text", number(1, 100_000)),
        P("batch_size", "Optional[int]", 32,
          "examples per batch and process; None: what fits the device",
          either(None, "what fits the device", number(1, 65_536))),
        P("lr", "Optional[float]", None, "peak learning rate; None: see Recipe",
          either(None, RECIPE, number(above=0, at_most=1))),
        SEED,
        WORKDIR,
        P("run_name", "str", "run", "the folder of this run in workdir", A_RUN_NAME),
    ],
    "Text": [
        *READING,
        VALID_CORPUS,
        P("general", "Optional[str]", None,
          "text to measure forgetting on; None: Python's manual",
          either(None, "Python's manual", Valid(TEXTS, is_text))),
        P("replay", "Optional[str]", None,
          "general text mixed into training against forgetting",
          either(None, "no replay", Valid(TEXTS, is_text))),
        P("replay_fraction", "float", 0.1, "fraction of each epoch's examples that come from replay",
          number(above=0, below=1)),
        EXAMPLES,
        MAX_LEN,
        VOCABULARY,
        P("add_words", "int", 0, "number of frequent words to add to the vocabulary", number(0, 20_000)),
    ],
    "Masking": [
        P("mlm_probability", "Optional[float]", None,
          "fraction of tokens that are masked; None: see Recipe",
          either(None, RECIPE, number(above=0, below=1))),
        MASKING,
        P("replace", "str", "80/10/10",
          "% of masked tokens: replaced by [MASK], by a random token, unchanged",
          Valid('three percentages with the sum 100, such as "80/10/10" or "100/0/0"', is_replacement)),
    ],
    "Optimizer": [
        P("recipe", "str", "fast",
          '"fast": chosen for model and batch size; "tutorial": of the 2020 tutorial',
          one_of("fast", "tutorial")),
        P("optimizer", "Optional[str]", None, '"adamw" or "muon"; None: the recipe\'s',
          either(None, RECIPE, one_of("adamw", "muon"))),
        P("schedule", "Optional[str]", None,
          f"{join_or(map(literal, SCHEDULES))}; None: see Recipe",
          either(None, RECIPE, one_of(*SCHEDULES))),
        P("accumulate", "int", 1, "gradient accumulation: batches per optimizer step", number(1, 65_536)),
        P("max_steps", "int", -1, "stop after this number of optimizer steps; -1: after all epochs",
          either(-1, "all epochs", POSITIVE)),
        P("weight_decay", "Optional[float]", None, "weight decay of weight matrices; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=1))),
        P("clip", "Optional[float]", None, "gradient clipping: largest norm, 0: off; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=float("inf")))),
        P("dropout", "Optional[float]", None, "dropout rate, 0.1 in BERT; None: see Recipe",
          either(None, RECIPE, number(at_least=0, below=1))),
    ],
    "Hardware": [
        *DEVICES,
        P("kernels", "str", "auto", 'CPU kernels: "auto" (the fastest here, timed) or a name, see docs/speed.md',
          one_of("auto", *KERNELS)),
        P("compile", "Union[bool, str]", "auto", '"auto": CUDA graph if faster; True: compiled, too; False: off',
          one_of("auto", True, False)),
        P("gradient_checkpointing", "Union[bool, str]", "auto",
          'saves memory, takes time; "auto": if needed', one_of("auto", True, False)),
    ],
    "Checkpoints and evaluation": [
        P("evaluations", "int", 4, "evaluations during training, besides one before it",
          number(1, 100_000)),
        P("patience", "int", 0,
          "early stopping: evaluations without improvement before stopping, 0: off", number(at_least=0)),
        P("keep", "str", "last", 'weights to save: "last" or "best" (lowest validation loss)',
          one_of("last", "best")),
        P("widget", "int", 3, "number of validation lines in the model card, as examples; 0: none", number(0, 8)),
        P("checkpoint_steps", "int", 500, "optimizer steps between checkpoints ...", POSITIVE),
        P("checkpoint_minutes", "float", 10.0, "... or minutes, whichever comes first",
          number(above=0, below=float("inf"))),
        P("logger", "Union[str, list]", "tensorboard",
          "where curves are shown; see docs/loggers.md", LOGGER),
        P("resume", "str", "auto", '"auto": continue an unfinished run; "never": start in a new folder',
          one_of("auto", "never")),
    ],
}
# fmt: on
