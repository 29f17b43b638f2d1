"""The parameters of 05."""

from mlm.parameters.check import P, Valid, either, number, one_of
from mlm.parameters.run import RUN, UNTRAINED
from mlm.parameters.text import A_SEED, COLUMN, ENCODING, VOCABULARY

# fmt: off
PARAMETERS = {  # {heading in the parameters cell: parameters}
    "Most used": [
        P("sentence", "Optional[str]", None, "your own, with [MASK]; None: a validation line of the run",
          either(None, "a validation line of the run",
                 Valid("a sentence with at least one [MASK]", lambda v: "[MASK]" in v))),
        P("top_k", "int", 8, "number of predictions for each [MASK]", number(1, 100)),
        P("seed", "int", 0, "of shuffled sentences and untrained weights", A_SEED),
        *RUN,
        P("upload", "Optional[str]", None,
          '"you/name": upload the model to the Hub (a new one is private)',
          either(None, "no upload", Valid('"you/name"', lambda v: v.count("/") == 1))),
        P("onnx", "bool", False, "also export the model as model/onnx/model.onnx", one_of(True, False)),
        P("page", "bool", False, "also write a page for the browser, <run>/page/ (see below)", one_of(True, False)),
    ],
    "If no run exists": [
        *UNTRAINED,
        COLUMN,
        ENCODING,
        VOCABULARY,
    ],
}
# fmt: on
