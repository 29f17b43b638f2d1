"""Tokenizing: ids equal the tokenizer's, for every kind; several processes give what one gives."""

import copy
import functools
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer

from encoders import CONFIGS, OTHERS, make_tokenizer
from helpers import json_output, refused, sentences, start_python
from mlm.data import token_ids, tokenization
from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import candidate_counts
from mlm.data.token_ids import encode_lines
from mlm.data.tokenization import (
    encode_in_processes,
    find_unspaced_starts,
    find_word_starts,
    limit_words,
    own_special_tokens,
    provides_words,
    python_encoder,
    text_backend,
    tokenizer_digest,
)
from mlm.data.tokenizer import load_tokenizer, save_tokenizer
from python_tokenizers import JAPANESE, MAKERS, bertweet, esm, japanese, lines_for, phobert

NAMES = [*CONFIGS, *OTHERS, *MAKERS]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function: the name of a kind -> a tokenizer of this kind, made once, and lines for it."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join(sentences(300)), encoding="utf-8")

    @functools.cache
    def make_both(name):
        if name in MAKERS:
            return MAKERS[name](tmp_path_factory.mktemp(name)), lines_for(name, 60)
        return make_tokenizer(name, text), sentences(60, seed=1)

    return make_both


def write_documents(path: Path, documents: list[list[str]]) -> Path:
    """A text whose documents are separated by one or two blank lines."""
    path.write_text("\n\n\n".join("\n".join(lines) for lines in documents) + "\n\n", "utf-8")
    return path


def plain_ids(tokenizer, texts):
    """What a call of the tokenizer gives, as in use."""
    return [tokenizer(text, verbose=False)["input_ids"] for text in texts]


# equal to the tokenizer's


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece_chars", [150, 2**16])
def test_training_ids_are_what_the_tokenizer_gives_in_use(
    make, name, tmp_path, monkeypatch, piece_chars
):
    """Of each line, of the lines of a document joined by a space, and of all lines."""
    monkeypatch.setattr(token_ids, "MAX_PIECE_CHARS", piece_chars)
    tokenizer, lines = make(name)
    documents = [lines[:1], lines[1:20], lines[20:]]
    if piece_chars == 150 and name.startswith("mecab"):
        documents = [[line] for line in lines]  # MeCab looks beyond a space
    path = write_documents(tmp_path / "text.txt", documents)
    expected = {
        "line": lines,
        "block": [" ".join(lines) for lines in documents],
        "stream": [" ".join(lines)],
    }
    if piece_chars == 150 and name.startswith("mecab"):
        del expected["stream"]
    for examples, texts in expected.items():
        data = MaskedLMDataset(path, tokenizer, 10**6, examples)
        assert [ids.tolist() for ids in data] == plain_ids(tokenizer, texts), examples


@pytest.mark.parametrize("name", NAMES)
def test_additional_special_tokens_are_tokens_and_never_masked(make, name, tmp_path):
    tokenizer, lines = copy.deepcopy(make(name))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[USER]", "[URL]"]})
    lines = [f"[USER] {line} [URL][URL] {line}[USER]" for line in lines]
    path = write_documents(tmp_path / "text.txt", [lines])
    data = MaskedLMDataset(path, tokenizer, 10**6)
    assert [ids.tolist() for ids in data] == plain_ids(tokenizer, lines)
    user, url = tokenizer.convert_tokens_to_ids(["[USER]", "[URL]"])
    is_special = np.isin(data.ids, [user, url])
    assert is_special.sum() == 4 * len(lines) and data.word_starts[is_special].all()
    others = data.ids[~is_special]
    assert data.unk_fraction == (others == tokenizer.unk_token_id).sum() / len(data.ids)
    assert data.maskable.sum() == (others != tokenizer.unk_token_id).sum()
    if data.word_counts is not None:
        is_unk = data.ids == tokenizer.unk_token_id
        assert data.word_counts.sum() == data.word_starts[~is_unk & ~is_special].sum()


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_additional_special_tokens_are_text_if_the_tokenizer_splits_them(make, name, tmp_path):
    tokenizer, lines = copy.deepcopy(make(name))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[USER]"]})
    lines = [f"[USER] {line}" for line in lines]
    path = write_documents(tmp_path / "text.txt", [lines])
    first = MaskedLMDataset(path, tokenizer, 10**6)
    tokenizer.split_special_tokens = True
    second = MaskedLMDataset(path, tokenizer, 10**6)  # not with the ids of the first one
    assert [ids.tolist() for ids in second] == plain_ids(tokenizer, lines)
    assert len(second.ids) > len(first.ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_models_own_special_tokens_are_text_in_a_text(make, name, tmp_path):
    tokenizer, lines = make(name)
    own = own_special_tokens(tokenizer)
    assert {*own.values()} <= {*tokenizer.all_special_ids} and len(own) == 5
    texts = [f"{lines[0]} {token} {lines[1]}{token}" for token in own] + [*own]
    path = write_documents(tmp_path / "text.txt", [lines, texts])
    ids, _, _ = encode_lines(path, tokenizer)
    assert {*ids.tolist()} & {*own.values()} <= {tokenizer.unk_token_id}


def test_the_backend_leaves_the_tokenizer_as_it_was(make):
    tokenizer, lines = make("bert")
    before = tokenizer.backend_tokenizer.to_str()
    text_backend(tokenizer).encode_batch(lines)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer.mask_token_id in tokenizer("the [MASK]")["input_ids"]


# words


def word_lengths(tokenizer, text, tmp_path):
    """The tokens of a text, one list per word."""
    path = write_documents(tmp_path / "text.txt", [[text]])
    ids, _, word_starts = encode_lines(path, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    edges = [*np.flatnonzero(word_starts), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("maker", [bertweet, phobert])
def test_words_of_bpe_with_marks_at_the_end_of_tokens(maker, tmp_path):
    words = word_lengths(maker(tmp_path / "a"), "the bell is lower", tmp_path)
    assert [len(word) for word in words] == [1, 2, 2, 2]
    assert words[:2] == [["the"], ["b@@", "ell"]]


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("mecab")])
def test_words_of_mecab(make, name, tmp_path):
    """Also of a tokenizer that splits words into characters, which have no marks."""
    tokenizer, _ = make(name)
    for line in JAPANESE:
        words = word_lengths(tokenizer, line, tmp_path)
        expected = tokenizer.word_tokenizer.tokenize(line)
        assert ["".join(t.removeprefix("##") for t in word) for word in words] == expected
    assert (
        max(len(word) for line in JAPANESE for word in word_lengths(tokenizer, line, tmp_path)) > 1
    )


def test_masking_words_is_refused_if_the_tokenizer_has_none(tmp_path):
    tokenizer = esm(tmp_path / "esm")
    path = write_documents(tmp_path / "text.txt", [lines_for("esm", 30)])
    data = MaskedLMDataset(path, tokenizer, 64)
    assert candidate_counts(data, "token") is data.maskable
    with refused('masking must be "token"', "'word'", "EsmTokenizer", "where words start"):
        candidate_counts(data, "word")
    assert not provides_words(tokenizer) and provides_words(japanese(tmp_path / "japanese"))


def test_a_special_token_is_a_word_of_its_own_and_so_is_each_token_of_a_long_word():
    unk = 1
    ids = np.array([7, unk, unk, 8, 8, *[9] * 12, *[10] * 10])
    is_start = np.diff([0, 0, 0, 0, 0, *[1] * 12, *[2] * 10], prepend=-1) != 0
    starts = np.flatnonzero(limit_words(ids, is_start, [unk]))
    assert starts.tolist() == [0, 1, 2, 3, *range(5, 18)]  # 12 tokens are too long, 10 are a word


UNSPACED_TEXTS = {  # scripts without spaces between words
    "thai": "แม่ของฉันไปตลาดซื้อปลาเมื่อวานนี้",
    "lao": "ຂ້ອຍໄປໂຮງຮຽນອ່ານປຶ້ມຄູສອນ",
    "burmese": "ကျောင်းသားများစာဖတ်နေကြသည်",
    "khmer": "ខ្ញុំទៅសាលារៀនអានសៀវភៅ",
    "japanese": "やさいがきらいですカメラ",
    "chinese": "我们去公园散步",
    "with english": "ฉันใช้Pythonทุกวัน",
}


@pytest.mark.parametrize("vocabulary", ["bpe", "unigram", "wordpiece-cased"])
@pytest.mark.parametrize("script", UNSPACED_TEXTS)
def test_each_token_is_a_word_in_scripts_without_spaces(tmp_path, script, vocabulary):
    text = UNSPACED_TEXTS[script]
    lines = [f"{text[i:]}{text[:i]} reads unreadable" for i in range(1, len(text))]
    path = write_documents(tmp_path / "text.txt", [lines])
    tokenizer = load_tokenizer("scratch:tiny", path, f"{vocabulary}:150")
    data = MaskedLMDataset(path, tokenizer, 512)
    for line, example in zip(lines, data, strict=True):
        start = int(data.starts[lines.index(line)])
        starts = data.word_starts[start : start + len(example) - 2]
        encoding = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)
        word_ids, offsets = encoding.word_ids(), encoding["offset_mapping"]
        for i, (first, last) in enumerate(offsets):
            is_thai = any(ord(c) > 0xE00 for c in line[first:last])
            after = i > 0 and any(ord(c) > 0xE00 for c in line[slice(*offsets[i - 1])])
            new_word = i == 0 or word_ids[i] != word_ids[i - 1]
            follows = (
                i > 0 and first >= offsets[i - 1][1]
            )  # the mark of a space is at the first letter
            assert starts[i] == (new_word or (follows and (is_thai or after)))


def test_pieces_of_a_character_are_one_word():
    """A byte-level tokenizer splits a Thai character into bytes."""
    backend = Tokenizer(
        models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (encoding,) = backend.encode_batch(["กขค ab"])
    starts = find_word_starts([encoding]) | find_unspaced_starts("กขค ab", encoding)
    assert np.flatnonzero(starts).tolist() == [0, 3, 6, 9]


# several processes


def batches_of(lines, size=7):
    return [lines[i : i + size] for i in range(0, len(lines), size)]


@pytest.mark.parametrize("name", MAKERS)
def test_several_processes_give_what_one_gives_in_order(make, name):
    tokenizer, _ = make(name)
    batches = batches_of(lines_for(name, 200))
    encoder = python_encoder(tokenizer)
    found = [*encode_in_processes(encoder, iter(batches), 3)]
    for one, other in zip(found, map(encoder, batches), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))


def test_only_a_few_batches_are_in_memory(tmp_path):
    started = []
    batches = (started.append(number) or ["MKT"] for number in range(50))
    encoded = encode_in_processes(python_encoder(esm(tmp_path)), batches, 2)
    next(encoded)
    assert len(started) <= 5
    encoded.close()


def test_a_long_text_is_tokenized_in_processes_and_a_short_one_is_not(tmp_path, monkeypatch):
    used = []

    def encode(encoder, batches, processes):
        used.append(processes)
        return map(encoder, batches)

    monkeypatch.setattr(tokenization, "encode_in_processes", encode)
    monkeypatch.setattr(tokenization, "num_processes", lambda: 2)
    monkeypatch.setattr(token_ids, "PYTHON_BATCH_CHARS", 2000)
    tokenizer = esm(tmp_path / "esm")
    for count, expected in ((2, []), (200, [2])):
        path = write_documents(tmp_path / f"{count}.txt", [lines_for("esm", count)])
        encode_lines(path, tokenizer)
        assert used == expected


class Killed:
    """An encoder whose process is killed by a text."""

    def __init__(self, tokenizer):
        self.encode = python_encoder(tokenizer)

    def __call__(self, texts):
        if texts == ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.encode(texts)


@pytest.mark.fault
def test_a_killed_process_is_reported_in_one_line(tmp_path):
    encoder = Killed(esm(tmp_path))
    with refused("was killed", "memory"):
        list(encode_in_processes(encoder, iter([["MKT"], ["kill"], ["MKT"]]), 2))
    assert multiprocessing.active_children() == []


@pytest.mark.fault
def test_interrupted_tokenizing_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(token_ids, "PYTHON_BATCH_CHARS", 1000)
    tokenizer = esm(tmp_path / "esm")
    path = write_documents(tmp_path / "text.txt", [lines_for("esm", 200)])
    real, calls = tokenization.encode_in_processes, []

    def interrupted(*arguments):
        for encoded in real(*arguments):
            calls.append(encoded)
            if len(calls) == 3:
                raise KeyboardInterrupt
            yield encoded

    monkeypatch.setattr(tokenization, "num_processes", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(tokenization, "encode_in_processes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode_lines(path, tokenizer)
    assert multiprocessing.active_children() == []
    assert [file.name for file in tmp_path.glob("text-*")] == []
    ids, ends, _ = encode_lines(path, tokenizer)
    lines = path.read_text().split()
    expected = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    assert [part.tolist() for part in np.split(ids, ends[:-1])] == expected


@pytest.mark.fault
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_processes_end_with_their_parent(tmp_path):
    """Even if the parent is killed and cannot tell them."""
    program = """
import multiprocessing
from pathlib import Path
from mlm.data.tokenization import encode_in_processes, python_encoder
from python_tokenizers import esm
encoded = encode_in_processes(python_encoder(esm(Path(sys.argv[1]))), iter([["MKT"]] * 9), 2)
next(encoded)
print([child.pid for child in multiprocessing.active_children()], flush=True)
os = __import__("os")
os.kill(os.getpid(), 9)
"""
    process = start_python(program, tmp_path)
    children = eval(process.communicate(timeout=60)[0])
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid):
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_of_a_pool_tokenizes_by_itself(tmp_path):
    """It may not start processes."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(tokenization.num_processes) == 1
    assert tokenization.num_processes() >= 1


# identity


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_tokenizer_gives_the_same_ids_and_has_the_same_digest(make, name, tmp_path):
    """BERTweet's merges are lost by save_pretrained of transformers 5."""
    tokenizer, lines = make(name)
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(tokenizer)
    assert plain_ids(loaded, lines) == plain_ids(tokenizer, lines)
    save_tokenizer(loaded, tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer_digest(again) == tokenizer_digest(loaded)


def test_the_digest_is_of_all_that_decides_the_ids(tmp_path):
    first, other = bertweet(tmp_path / "a"), bertweet(tmp_path / "a")
    assert tokenizer_digest(first) == tokenizer_digest(other)
    codes = tmp_path / "b" / "bpe.codes"
    bertweet(tmp_path / "b")
    codes.write_text(codes.read_text().replace("t h 1000\n", ""))
    without_th = type(first)(str(tmp_path / "b" / "vocab.txt"), str(codes))
    other.add_tokens(["river"])
    digests = {tokenizer_digest(each) for each in (first, other, without_th)}
    assert len(digests) == 3
    assert first("the river")["input_ids"] != without_th("the river")["input_ids"]


def test_the_digest_does_not_depend_on_the_last_call(tokenizer):
    copy = BertTokenizer(vocab=tokenizer.get_vocab())
    before = tokenizer_digest(copy)
    copy("a b c", truncation=True, max_length=4, padding="max_length")
    assert tokenizer_digest(copy) == before


@pytest.mark.slow
def test_two_processes_are_faster_than_one_that_calls_the_tokenizer(tmp_path):
    """About twice as fast on two idle cores; this test only excludes processes that wait for each other."""
    program = """
import json, time
from pathlib import Path
from mlm.data import tokenization
from mlm.data.tokenization import encode_batches, num_processes
from python_tokenizers import esm, lines_for
tokenizer = esm(Path(sys.argv[1]))
lines = lines_for("esm", 8_000)
start = time.perf_counter()
expected = tokenizer(lines, add_special_tokens=False)["input_ids"]
called = time.perf_counter() - start
start = time.perf_counter()
batches = [lines[i : i + 500] for i in range(0, len(lines), 500)]
num_tokens = sum(len(encoded.ids) for encoded in encode_batches(tokenizer, batches))
print(json.dumps([called, time.perf_counter() - start, num_tokens == sum(map(len, expected))]))
"""
    called, ours, same = json_output(start_python(program, tmp_path))
    print(f"{called:.2f} s by calling the tokenizer, {ours:.2f} s in processes")
    assert same and ours < called
