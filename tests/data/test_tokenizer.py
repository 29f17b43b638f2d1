"""Tokenizers: learned from a text, or loaded with a model; unusable ones are refused."""

import importlib.util
import json
import threading

import pytest
from tokenizers import Tokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from encoders import modernbert_tokenizer
from helpers import json_output, refused, start_python
from hosts import serve
from mlm.data import tokenizer as tokenizer_module
from mlm.data.tokenizer import learn_wordpiece, load_tokenizer, split_long_lines

# a learned vocabulary


@pytest.mark.slow
def test_a_learned_vocabulary_is_the_same_in_every_process(corpus_folder):
    program = """
import json
from mlm.data.tokenizer import learn_wordpiece
print(json.dumps(learn_wordpiece(sys.argv[1]).get_vocab()))
"""
    path = corpus_folder / "train.txt"
    process = start_python(program, path, PYTHONHASHSEED="1", RAYON_NUM_THREADS="1")
    assert json_output(process) == learn_wordpiece(path).get_vocab()


def test_a_learned_vocabulary_covers_its_text(tokenizer, corpus_folder):
    text = (corpus_folder / "train.txt").read_text("utf-8")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    normalized = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(ids).replace(" ", "") == normalized.replace(" ", "").replace("\n", "")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == special
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_every_letter_is_in_the_vocabulary_even_if_there_are_more_than_vocab_size(tmp_path):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 400))), "utf-8")
    learned = learn_wordpiece(tmp_path / "a.txt", vocab_size=100)
    assert learned.unk_token_id not in learned("\u4e00 \u4e10 \u4f8f")["input_ids"]


def test_a_learned_tokenizer_has_the_maximum_length_of_bert(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.model_max_length == 512
    assert load_tokenizer(str(tmp_path), None).model_max_length == 512


def test_a_long_line_without_a_space_loses_no_letter(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "MAX_PIECE_CHARS", 7)
    text = "x" * 7 + "\n" + "y" * 30 + " z\n\n" + "ab cd ef gh ij\n"
    (tmp_path / "a.txt").write_text(text, "utf-8")
    pieces = list(split_long_lines(tmp_path / "a.txt"))
    assert "".join(piece + "\n" * ends_line for piece, ends_line in pieces) == text
    assert max(len(piece) for piece, _ in pieces) <= 7


# load


def test_scratch_learns_a_vocabulary_and_a_folder_is_loaded(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(["The cat sat on a mat.", "A dog sat, too."] * 10))
    learned = load_tokenizer("scratch:tiny", path)
    assert "WordPiece (spaces and punctuation separate words), uncased" in capsys.readouterr().out
    assert isinstance(learned, BertTokenizer)
    assert learned.get_vocab() == learn_wordpiece(path).get_vocab()
    learned.save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(str(tmp_path / "model"), None)
    line = "THE cát sat"
    assert (
        loaded(line)["input_ids"]
        == learned(line)["input_ids"]
        == learned("the cat sat")["input_ids"]
    )


def test_the_vocabulary_that_is_asked_for_is_learned(corpus_folder):
    learned = load_tokenizer("scratch:tiny", corpus_folder / "train.txt", "bpe-cased:200")
    assert len(learned) == 200 and learned.tokenize("the Übermensch")[0] == "▁the"
    assert "Ü" in learned.get_vocab()


@pytest.mark.fault
def test_a_pretrained_model_keeps_its_vocabulary(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    with refused("vocabulary must be None", str(tmp_path), "got 'bpe'", "scratch:tiny"):
        load_tokenizer(str(tmp_path), None, "bpe")


ROLES = "mask", "pad", "cls", "sep"


@pytest.mark.fault
@pytest.mark.parametrize("lost", [*ROLES, ROLES])
def test_a_tokenizer_that_does_not_name_its_special_tokens_is_refused(tmp_path, tokenizer, lost):
    """As `Tokenizer.save` leaves them: the vocabulary has a mask token, but nothing says which."""
    special = {f"{role}_token": f"[{role.upper()}]" for role in ROLES if role not in lost}
    incomplete = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    incomplete.save_pretrained(tmp_path)
    missing = [f'"{role}_token": "[{role.upper()}]"' for role in ROLES if role in lost]
    with refused(f"model={str(tmp_path)!r}", "has no ", f"add {', '.join(missing)} to "):
        load_tokenizer(str(tmp_path), None)
    path = tmp_path / "tokenizer_config.json"
    content = json.loads(path.read_text()) | json.loads("{" + ", ".join(missing) + "}")
    path.write_text(json.dumps(content))  # as the message says
    ids = load_tokenizer(str(tmp_path), None)("the will to power")["input_ids"]
    assert ids == tokenizer("the will to power")["input_ids"]


@pytest.mark.fault
def test_a_tokenizer_without_a_token_that_masking_needs_is_refused(tmp_path, tokenizer):
    content = tokenizer.backend_tokenizer.to_str().replace("[MASK]", "[NONE]")
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ROLES if role != "mask"}
    backend = Tokenizer.from_str(content)
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(tmp_path)
    with refused(f"model={str(tmp_path)!r}", "has no mask token", "bert-base-uncased"):
        load_tokenizer(str(tmp_path), None)


# settings that training does not have


def test_a_bpe_that_leaves_out_merges_at_random_no_longer_does(tmp_path, corpus_folder, capsys):
    made = modernbert_tokenizer((corpus_folder / "train.txt").read_text("utf-8").split("\n"))
    expected = made("the will to power")["input_ids"]
    made.backend_tokenizer.model.dropout = 0.5
    made.save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(str(tmp_path / "model"), None)
    assert capsys.readouterr().out.startswith("dropout is 0.5 in tokenizer.json: it is now off")
    loaded.save_pretrained(tmp_path / "saved")
    for each in (loaded, load_tokenizer(str(tmp_path / "saved"), None)):
        assert all(each("the will to power")["input_ids"] == expected for _ in range(20))
    assert capsys.readouterr().out == ""


def test_padding_is_on_the_right(tmp_path, tokenizer, capsys):
    left = BertTokenizer(vocab=tokenizer.get_vocab(), padding_side="left")
    left.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path), None)
    assert loaded(["a", "a b"], padding=True)["attention_mask"][0] == [1, 1, 1, 0]
    assert "padding_side is 'left' in tokenizer_config.json" in capsys.readouterr().out


@pytest.mark.fault
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "damaged")
    for path in (tmp_path / "damaged").glob("*.json"):
        path.write_text(path.read_text()[:100])
    for path in (tmp_path / "damaged", tmp_path / "gone"):
        with refused(
            f"model={str(path)!r}", "pass the name of a masked language model", '"scratch:tiny"'
        ):
            load_tokenizer(str(path), None)


MISSING = [  # class, its options, its files, the missing module, what the message says
    ("BertJapaneseTokenizer", {"word_tokenizer_type": "mecab"}, "fugashi", "pip install fugashi"),
    ("BertJapaneseTokenizer", {"word_tokenizer_type": "jumanpp"}, "rhoknp", "pip install rhoknp"),
    ("BertGenerationTokenizer", {}, "sentencepiece", "pip install sentencepiece"),
    ("XLMRobertaTokenizer", {}, "sentencepiece", "pip install sentencepiece"),
    ("XLMTokenizer", {}, "sacremoses", "pip install sacremoses"),
]


@pytest.mark.fault
@pytest.mark.parametrize("tokenizer_class, options, module, command", MISSING)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path, tokenizer_class, options, module, command
):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    config = {"tokenizer_class": tokenizer_class} | options
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    files = "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "merges.txt"
    for name in files:
        (tmp_path / name).write_text("[UNK]\n")
    (tmp_path / "vocab.json").write_text('{"<unk>": 0}')
    with refused(f"model={str(tmp_path)!r}", f"`{command}`", "restart the kernel"):
        load_tokenizer(str(tmp_path), None)


@pytest.mark.fault
@pytest.mark.slow
def test_a_hub_without_the_model_or_without_an_answer_is_refused_in_time(tmp_path):
    """In a process of its own: the Hub's client reads its address when it is imported."""
    is_over = threading.Event()

    def answer(path):
        if "/slow" in path:
            is_over.wait(60)
        return 401, {"X-Error-Code": "RepoNotFound"}, b""

    program = """
import huggingface_hub.constants
from helpers import refused
from mlm.data.tokenizer import load_tokenizer

def check(model, *reasons):
    with refused(f"model='{model}'", *reasons, "scratch:tiny"):
        load_tokenizer(model, None)

host = huggingface_hub.constants.ENDPOINT
check("somebody/unknown", "no tokenizer found", "not a valid model identifier")
huggingface_hub.constants.ENDPOINT = f"{host}/slow"  # accepts the connection and never answers
check("somebody/slow", "no folder somebody/slow here", "does not answer", 'model="FOLDER"')
huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # refuses the connection
check("somebody/absent", "cannot be reached (http://127.0.0.1:9 does not answer)")
check("scratch:somebody/absent", "no folder somebody/absent here", 'its config.json (model="scratch:FOLDER")')
huggingface_hub.constants.HF_HUB_OFFLINE = True
check("scratch:somebody/absent", "cannot be reached (HF_HUB_OFFLINE is set)")
print(1)
"""
    with serve(answer) as endpoint:
        process = start_python(program, HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint)
        assert json_output(process) == 1
        is_over.set()
