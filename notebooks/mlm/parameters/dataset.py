"""The parameters of 03 and 03b."""

from mlm.parameters.check import P, number
from mlm.parameters.text import (
    CORPUS,
    EXAMPLES,
    MASKING,
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
        P("batch_size", "int", 32, "examples per batch and process", number(1, 65_536)),
        SEED,
        WORKDIR,
    ],
    "Text": [
        *READING,
        VALID_CORPUS,
        EXAMPLES,
        MAX_LEN,
        VOCABULARY,
    ],
    "Masking": [
        MLM_PROBABILITY,
        MASKING,
    ],
}
# fmt: on
