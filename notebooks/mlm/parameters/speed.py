"""The parameters of 06."""

from mlm.parameters.check import P, either, number, one_of
from mlm.parameters.text import (
    CORPUS,
    MAX_LEN,
    MLM_PROBABILITY,
    MODEL,
    READING,
    SEED,
    VALID_CORPUS,
    VOCABULARY,
    WORKDIR,
)

# fmt: off
PARAMETERS = {  # {heading in the parameters cell: parameters}
    "Most used": [
        CORPUS,
        MODEL,
        P("batch_size", "int", 32, "examples per batch, unless a variant sets 4", number(1, 65_536)),
        P("steps", "int", 20, "each variant trains on steps * batch_size lines", number(2, 10_000)),
        P("race_lines", "Optional[int]", None, "lines in the race of recipes; None: steps * batch_size",
          either(None, "steps * batch_size", number(1, 10_000_000))),
        P("repeats", "int", 3, "repetitions of each measurement", number(1, 100)),
        SEED,
        WORKDIR,
    ],
    "Text": [
        *READING,
        VALID_CORPUS,
        MAX_LEN,
        VOCABULARY,
    ],
    "Masking": [
        MLM_PROBABILITY,
    ],
    "Hardware": [
        P("precision", "Union[int, str]", "auto",
          '"auto" (the fastest here), "32" or "bf16"',
          one_of("auto", "32", "bf16", convert=str)),
    ],
}
# fmt: on
