"""The parameters of 05 and 07 that say which run is used."""

from mlm.parameters.check import P, either
from mlm.parameters.text import A_CORPUS, A_FOLDER, A_MODEL, A_RUN_NAME

# fmt: off
RUN = [
    P("workdir", "str", "bert-mlm", "the workdir of 04", A_FOLDER),
    P("run_name", "Optional[str]", None, 'the folder of a run in workdir; None: "run", if it exists',
      either(None, '"run", if it exists', A_RUN_NAME)),
]
UNTRAINED = [  # if no run exists
    P("model", "str", "bert-base-uncased", 'Hub name, folder, or untrained: "scratch:tiny"',
      A_MODEL),
    P("corpus", "Union[str, list]", "nietzsche", 'the text for the vocabulary of "scratch:" models',
      A_CORPUS),
]
# fmt: on
