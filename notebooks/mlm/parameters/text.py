"""The parameters that say which text and model are read, of 02 to 07."""

import re
from typing import Any

from mlm.data.text_options import DOCUMENTS, is_encoding
from mlm.data.vocabulary_names import KINDS, MAX_SIZE, MIN_SIZE, is_vocabulary
from mlm.env.scratch import MODERN, PREFIX, SIZES, WIDTHS, is_scratch
from mlm.parameters.check import P, Valid, either, join_or, literal, number, one_of

# valid values


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def is_corpus(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return texts != [] and all(map(is_text, texts))


def is_model(value: str) -> bool:
    return is_text(value) and (not value.startswith(PREFIX) or is_scratch(value))


TEXTS = '"nietzsche", "pydoc", a file, folder, pattern or URL, hf://datasets/... or hf:NAME:SPLIT'
A_CORPUS = Valid(f'{TEXTS}, or a list of these, also with weights ("wiki.txt*2")', is_corpus)
NAMES = join_or([*SIZES, "the Hub name or folder of another model"])
A_MODEL = Valid(f'a Hub name, a folder, or "{PREFIX}" and {NAMES}', is_model)
A_VOCABULARY = Valid(
    f'{join_or(map(literal, KINDS))}, optionally with "-cased" and a number of tokens from {MIN_SIZE:,} to '
    f'{MAX_SIZE:,}, such as "bpe-cased:16000"',
    is_vocabulary,
)
A_COLUMN = Valid("the name of a column", is_text)
A_FOLDER = Valid(
    # "gs://..." would become a folder "gs:", and "$SCRATCH/..." of a YAML file a folder "$SCRATCH"
    "the path of a folder on this machine, no URL and no variable of the shell",
    lambda value: is_text(value) and "://" not in value and value[0] != "$",
)
AN_ENCODING = either(
    None,
    "UTF-8",
    Valid('an encoding that Python knows, such as "cp1252" or "gb18030"', is_encoding),
)
A_SEED = number(at_least=0, at_most=2**32 - 1)
MAX_NAME_BYTES = 200  # of a folder: file systems allow 255, and resume="never" adds a number
A_RUN_NAME = Valid(
    f'a name of letters, digits, "_", "-" and ".", of at most {MAX_NAME_BYTES} bytes, but not "corpus", the '
    "folder of the texts",
    lambda value: (
        value.lower() != "corpus"  # the same folder on macOS and Windows
        and len(value.encode()) <= MAX_NAME_BYTES
        and bool(re.fullmatch(r"\w[\w.\-]*", value))
    ),
)
SCRATCH_NAMES = f'"{PREFIX}[{MODERN}]{"|".join(WIDTHS)}"'

# parameters of several notebooks

# fmt: off
CORPUS = P("corpus", "Union[str, list]", "nietzsche",
  '"nietzsche", "pydoc" (no network), file, folder, URL, list', A_CORPUS)
MODEL = P("model", "str", "bert-base-uncased",
  f"Hub name, folder, or {SCRATCH_NAMES}", A_MODEL)
SEED = P("seed", "int", 0, "of weights, data order, masks and dropout", A_SEED)
WORKDIR = P("workdir", "str", "bert-mlm", "the folder for all files, read and written", A_FOLDER)
VALID_CORPUS = P("valid_corpus", "Optional[str]", None,
  "validation text; None: a tenth of the corpus",
  either(None, "a tenth of the corpus", Valid(TEXTS, is_text)))
EXAMPLES = P("examples", "str", "line",
  '"line"; "block": max_len tokens of a document; "stream": of all text',
  one_of("line", "block", "stream"))
MAX_LEN = P("max_len", "int", 128, "longest example in tokens, with [CLS] and [SEP]",
  Valid("at least 8, and at most the model's number of positions (BERT: 512)", number(8).check))
VOCABULARY = P("vocabulary", "Optional[str]", None,
  'of a "scratch:" model, as "bpe-cased:16000"; None: chosen',
  either(None, "what fits the text", A_VOCABULARY))
MLM_PROBABILITY = P("mlm_probability", "float", 0.15, "fraction of tokens that are masked",
  number(above=0, below=1))
MASKING = P("masking", "str", "token", '"token": each token by itself; "word": whole words',
  one_of("token", "word"))
COLUMN = P("column", "str", "text", "the column to read, if the corpus is a table", A_COLUMN)
ENCODING = P("encoding", "Optional[str]", None, "encoding of the text files; None: UTF-8", AN_ENCODING)
READING = [  # how a text is read
    COLUMN,
    ENCODING,
    P("documents", "Optional[str]", None,
      'what ends a document: "file", "blank line", "line"; None: chosen',
      either(None, "chosen for the text", one_of(*DOCUMENTS))),
]
# fmt: on
