"""Learned vocabularies of every kind, in many languages: no word is lost, and saving changes nothing."""

import contextlib
import io
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, pipeline

from helpers import json_output, sentences, start_python
from languages import LANGUAGES, TEXTS, sentences_in
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import load_tokenizer
from mlm.data.vocabulary_names import KINDS


def learn(folder, lines, vocabulary=None):
    """(path of the text, tokenizer, what was printed)."""
    path = folder / "a.txt"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        tokenizer = load_tokenizer("scratch:tiny", path, vocabulary)
    return path, tokenizer, printed.getvalue()


def spoken(text):
    """A text as it would be read aloud: composed, in lower case, without what is invisible."""
    return unicodedata.normalize("NFC", text).lower().replace("\u200b", " ").split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_words_of_a_language_become_the_same_tokens(tmp_path, language):
    """Except words that differ in their capitals only, if the tokenizer is uncased."""
    _, tokenizer, printed = learn(tmp_path, sentences_in(language))
    words = sorted({word for line in sentences_in(language) for word in line.split()})
    is_uncased = "uncased" in printed
    same_word = (lambda word: " ".join(spoken(word))) if is_uncased else str
    by_tokens = {}
    for word in words:
        key = tuple(tokenizer(word)["input_ids"])
        by_tokens.setdefault(key, set()).add(same_word(word))
        assert tokenizer.unk_token_id not in key
    if language == "turkish":  # str.lower makes "IŞIK" "işik"; in Turkish it is "ışık"
        assert (
            tokenizer.tokenize("IŞIK") == tokenizer.tokenize("ışık") != tokenizer.tokenize("isik")
        )
        return
    if language == "greek":
        assert tokenizer.tokenize("ΔΑΣΚΑΛΟΣ ΝΕΟΣ") != tokenizer.tokenize(
            "δάσκαλος νέος"
        )  # no accents
    assert [same for same in by_tokens.values() if len(same) > 1] == []


@pytest.mark.parametrize("vocabulary", [None, *KINDS])
@pytest.mark.parametrize("space", ["\v", "\f", "\x85", "\u2028", "\u3000"])
def test_every_kind_of_space_separates_words(tmp_path, space, vocabulary):
    """Slides have vertical tabs as line breaks, pages of PDFs end with form feeds."""
    lines = [f"the old man at number {n} walks slowly home" for n in range(40)]
    lines[7] = lines[7].replace(" ", space)
    _, tokenizer, _ = learn(tmp_path, lines, vocabulary)
    spaced = lines[7].replace(space, " ")
    assert tokenizer(lines[7])["input_ids"] == tokenizer(spaced)["input_ids"]


def test_spaces_between_the_letters_of_morse_code_are_kept(tmp_path):
    _, tokenizer, _ = learn(tmp_path, TEXTS["morse"])
    ids = [tokenizer(text)["input_ids"] for text in ("...-", "... -", ".. .-", ". . . -")]
    assert len({*map(tuple, ids)}) == 4


@pytest.mark.parametrize("vocabulary", [None, *KINDS])
@pytest.mark.parametrize("name", TEXTS)
def test_training_reads_what_the_saved_tokenizer_gives(tmp_path, name, vocabulary):
    """As lines and as blocks; and every letter of the text is in the vocabulary."""
    path, tokenizer, _ = learn(tmp_path, TEXTS[name], vocabulary)
    tokenizer.save_pretrained(tmp_path / "model")
    BertConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    lines = loaded([line.strip() for line in TEXTS[name]], verbose=False)["input_ids"]
    data = MaskedLMDataset(path, tokenizer, 512)
    assert [ids.tolist() for ids in data] == [ids for ids in lines if len(ids) > 2]
    blocks = MaskedLMDataset(path, tokenizer, 10_000, "block")
    (joined,) = [ids.tolist() for ids in blocks]
    assert joined == loaded(" ".join(TEXTS[name]), verbose=False)["input_ids"]
    assert data.unk_fraction == 0 and tokenizer.unk_token_id not in joined


@pytest.mark.parametrize("vocabulary", [None, "bpe", "unigram", "wordpiece-cased:200"])
@pytest.mark.parametrize("language", ["hindi", "thai", "vietnamese", "smiles", "japanese"])
def test_the_pipeline_sees_a_masked_word_as_training_does(tmp_path, language, vocabulary):
    _, tokenizer, _ = learn(tmp_path, sentences_in(language), vocabulary)
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    fill_mask = pipeline("fill-mask", model=str(tmp_path / "model"), device="cpu")
    first, *_, last = sentences_in(language)[7].split() * 3
    expected = tokenizer(f"{first} {last}")["input_ids"]
    for text in (f"[MASK] {last}", f"{first} [MASK]"):
        masked = fill_mask.tokenizer(text)["input_ids"]
        assert masked.count(tokenizer.mask_token_id) == 1
        kept = [token for token in masked if token != tokenizer.mask_token_id]
        assert not set(kept) - set(expected)  # the tokens around a mask are those of training
    assert len(fill_mask(text, top_k=3)) == 3


@pytest.mark.parametrize(
    "vocabulary", ["wordpiece-cased:150", "bpe:150", "unigram:150", "unigram-cased:300"]
)
def test_a_vocabulary_has_the_size_that_is_asked_for(tmp_path, vocabulary):
    lines = [line.split(" ", 1)[-1] for line in sentences(400)]
    _, tokenizer, _ = learn(tmp_path, lines, vocabulary)
    size = int(vocabulary.partition(":")[2])
    assert 0.2 * size < len(tokenizer) <= size  # Unigram drops what it does not need
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == special
    assert tokenizer.model_max_length == 512


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["bpe", "unigram", "wordpiece-cased"])
def test_every_kind_of_vocabulary_is_the_same_in_every_process(tmp_path, vocabulary):
    program = """
import json
from mlm.data.tokenizer import learn_tokenizer
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    tokenizer = learn_tokenizer(sys.argv[1], sys.argv[2])
print(json.dumps(tokenizer.backend_tokenizer.to_str()))
"""
    lines = [line for language in LANGUAGES for line in sentences_in(language)]
    path, tokenizer, _ = learn(tmp_path, lines, vocabulary)
    process = start_python(program, path, vocabulary, PYTHONHASHSEED="1", RAYON_NUM_THREADS="1")
    assert json_output(process) == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("vocabulary", ["wordpiece-cased", "bpe", "unigram"])
def test_long_runs_without_spaces_are_learned_and_not_unknown(tmp_path, vocabulary):
    random = np.random.default_rng(0)
    lines = ["".join(random.choice([*"ACGT"], 250)) for _ in range(30)]
    path, tokenizer, _ = learn(tmp_path, lines, vocabulary)
    data = MaskedLMDataset(path, tokenizer, 512)
    assert data.unk_fraction == 0 and len(data) == 30


@pytest.mark.slow
def test_learning_from_a_long_text_without_spaces_is_bounded(tmp_path):
    """Time and memory of a process that learns: four times the text, less than twice the time."""
    program = """
import json, time
from helpers import peak_memory
from mlm.data.tokenizer import load_tokenizer
import contextlib, io
start = time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    load_tokenizer("scratch:tiny", sys.argv[1])
print(json.dumps([time.process_time() - start, peak_memory() / 1e9]))
"""
    random = np.random.default_rng(0)
    seconds = {}
    for num_lines in (40_000, 160_000):
        rows = random.choice([*b"ACGT"], (num_lines, 61)).astype(np.uint8)
        rows[:, 60] = ord("\n")
        (tmp_path / "dna.txt").write_bytes(rows.tobytes())
        seconds[num_lines], gigabytes = json_output(start_python(program, tmp_path / "dna.txt"))
        assert gigabytes < 1
    assert seconds[160_000] < 2.5 * seconds[40_000] + 1
