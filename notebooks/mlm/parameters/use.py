"""The parameters of 07."""

from mlm.parameters.check import P, Valid, either, number, one_of
from mlm.parameters.run import RUN, UNTRAINED
from mlm.parameters.text import A_COLUMN, A_SEED, ENCODING, is_text

# fmt: off
PARAMETERS = {  # {heading in the parameters cell: parameters}
    "Most used": [
        P("labelled", "Optional[str]", None, "CSV, JSON lines, parquet, folder of folders; None: Python's manual",
          either(None, "passages of Python's manual",
                 Valid("a table (CSV, JSON lines, parquet), or a folder with a folder of texts for each class", is_text))),
        P("column", "str", "text", "the column of the texts, if labelled is a table", A_COLUMN),
        P("label_column", "str", "label", "the column of the classes, if labelled is a table", A_COLUMN),
        ENCODING,
        P("finetune_steps", "int", 100, "optimizer steps of each fine-tuning; 0: no fine-tuning", number(0, 100_000)),
        P("seed", "int", 0, "of the split, the labelled samples and untrained weights", A_SEED),
        *RUN,
        P("sentence_transformers", "bool", False, "also write what sentence-transformers needs into model/",
          one_of(True, False)),
    ],
    "If no run exists": [
        *UNTRAINED,
    ],
}
# fmt: on
