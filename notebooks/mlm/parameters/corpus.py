"""The parameters of 02."""

from mlm.parameters.text import CORPUS, READING, WORKDIR

# fmt: off
PARAMETERS = {  # {heading in the parameters cell: parameters}
    "Most used": [
        CORPUS,
        WORKDIR,
    ],
    "Text": [
        *READING,
    ],
}
# fmt: on
