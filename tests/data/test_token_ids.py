"""Token ids on disk: equal to the tokenizer's, made once, verified, and rebuilt when damaged."""

import contextlib
import multiprocessing
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import json_output, sentences, start_python
from mlm.data import token_ids
from mlm.data import tokenizer as tokenizer_module
from mlm.data.token_ids import encode_lines, join_lines
from mlm.data.tokenization import find_word_starts
from mlm.data.tokenizer import learn_wordpiece, load_tokenizer
from mlm.env.notebook import NotebookError

FORK = multiprocessing.get_context("fork")  # a new interpreter would import for seconds


def as_lists(arrays):
    """The arrays of `encode_lines` as lists."""
    return [array.tolist() for array in arrays]


def remove_token_ids(text):
    """Remove the files that `encode_lines` wrote for a text."""
    for path in text.parent.glob(f"{text.stem}-*"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


# when they are made


def test_token_ids_are_memory_mapped_and_made_once(odd_text, tokenizer, monkeypatch):
    ids, line_ends, word_starts = encode_lines(odd_text, tokenizer)
    assert all(isinstance(array, np.memmap) for array in (ids, line_ends, word_starts))
    assert (ids.dtype, line_ends.dtype, word_starts.dtype) == (np.int32, np.int64, np.bool_)
    assert line_ends[-1] == len(ids) == len(word_starts) and (np.diff(line_ends) >= 0).all()

    def tokenize(*_):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(token_ids, "encode_batches", tokenize)
    again, *_ = encode_lines(odd_text, tokenizer)
    assert again.filename == ids.filename
    odd_text.write_text("a changed text\n")
    with pytest.raises(AssertionError, match="tokenized again"):
        encode_lines(odd_text, tokenizer)


def test_each_vocabulary_has_its_own_files(odd_text, tokenizer):
    other = learn_wordpiece(odd_text, vocab_size=150)
    ids, other_ids = (encode_lines(odd_text, each)[0] for each in (tokenizer, other))
    assert ids.filename != other_ids.filename
    assert ids.tolist() != other_ids.tolist()


def test_interrupted_tokenizing_starts_again(odd_text, tokenizer, monkeypatch):
    expected = as_lists(encode_lines(odd_text, tokenizer))
    remove_token_ids(odd_text)
    real, calls = token_ids.encode_batches, []

    def interrupted(*arguments):
        for batch in real(*arguments):
            calls.append(batch)
            if len(calls) == 2:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(token_ids, "encode_batches", interrupted)
        patch.setattr(token_ids, "FAST_BATCH_CHARS", 5000)
        with pytest.raises(KeyboardInterrupt):
            encode_lines(odd_text, tokenizer)
    assert as_lists(encode_lines(odd_text, tokenizer)) == expected


@pytest.mark.parametrize(
    "module, name, size",
    [
        (token_ids, "FAST_BATCH_CHARS", 1),
        (token_ids, "FAST_BATCH_CHARS", 700),
        (tokenizer_module, "MAX_PIECE_CHARS", 301),
    ],
)
def test_the_size_of_batches_and_pieces_does_not_matter(
    odd_text, tokenizer, monkeypatch, module, name, size
):
    """A few lines at a time, or long lines cut at spaces, give the same token ids and vocabulary."""
    expected = as_lists(encode_lines(odd_text, tokenizer))
    vocabulary = learn_wordpiece(odd_text).get_vocab()
    remove_token_ids(odd_text)
    monkeypatch.setattr(module, name, size)
    assert as_lists(encode_lines(odd_text, tokenizer)) == expected
    assert learn_wordpiece(odd_text).get_vocab() == vocabulary


# complete and undamaged files


def file_contents(folder):
    """{name: content} of all files in a folder; JSON without the space at its end."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return found | {name: found[name].rstrip() for name in found if name.endswith(".json")}


def damaged_versions(content, others):
    """(description, new content) of what can happen to a file; None: it is missing."""
    for part in (0, 0.3, 0.999):
        at = int(part * len(content))
        for bit in (1, 128):
            yield f"{at} flipped", content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        yield f"cut to {at}", content[:at]
    yield "longer", content + b"\0" * 8
    yield "missing", None
    for name, other in others.items():
        yield f"replaced by {name}", other


@pytest.mark.fault
def test_damaged_files_are_rebuilt(tmp_path, tokenizer):
    """Each file, damaged in every way, or exchanged for another file, also of another text."""
    text, other = tmp_path / "text.txt", tmp_path / "other" / "text.txt"
    text.write_text("\n".join(sentences(10)), "utf-8")
    other.parent.mkdir()
    other.write_text("another\nquite another text\n" * 9)
    encode_lines(other, tokenizer)
    foreign = {
        f"another text's {Path(name).suffix}": content
        for name, content in file_contents(other.parent).items()
    }
    shutil.rmtree(other.parent)

    expected = as_lists(encode_lines(text, tokenizer))
    undamaged = file_contents(tmp_path)
    written = {name: content for name, content in undamaged.items() if name != "text.txt"}
    assert len(written) == 4
    num_cases = 0
    for name, content in written.items():
        others = {n: c for n, c in written.items() if n != name} | foreign
        for damage, damaged in damaged_versions(content, others):
            (tmp_path / name).unlink()
            if damaged is not None:
                (tmp_path / name).write_bytes(damaged)
            assert as_lists(encode_lines(text, tokenizer)) == expected, (name, damage)
            assert file_contents(tmp_path) == undamaged, (name, damage)
            num_cases += 1
    assert num_cases == 76


def test_outdated_and_incomplete_files_are_removed_and_no_others(odd_text, tokenizer):
    folder = odd_text.parent
    other_files = "text-notes.json", "text-0123456789ab.txt", "texts-0123456789ab.ids"
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    encode_lines(odd_text, tokenizer)
    odd_text.write_text("an older text\n" * 20)
    other_tokenizer = learn_wordpiece(odd_text)
    for name in other_files:
        (folder / name).write_text("mine")
    incomplete = f"text.ids.{socket.gethostname()}-{finished.pid}.part"
    for name in ("text-0123456789ab.ids", incomplete):
        (folder / name).write_text("half")
    for each in (tokenizer, other_tokenizer, tokenizer):  # files of two tokenizers coexist
        encode_lines(odd_text, each)
    names = file_contents(folder).keys()
    left = sorted(name for name in names if name not in (*other_files, "text.txt"))
    assert [Path(name).suffix for name in left] == [".begins", ".ends", ".ids", ".json"] * 2, left
    assert {*other_files} < names


def encode_with_size_limits(text, tokenizer_folder, limits):
    """For each limit of a file's size: error message or None, incomplete files, lengths afterwards."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then raises EFBIG, like a full disk
    tokenizer = load_tokenizer(tokenizer_folder, None)
    rows = []
    for limit in limits:
        remove_token_ids(text)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        message = None
        try:
            encode_lines(text, tokenizer)
        except NotebookError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        incomplete = [path.name for path in text.parent.glob("*.part")]
        rows.append((message, incomplete, [len(array) for array in encode_lines(text, tokenizer)]))
    return rows


@pytest.mark.fault
def test_a_full_disk_is_reported_and_no_incomplete_file_is_used(tmp_path, odd_text, tokenizer):
    """With every limit between too little for anything and enough."""
    expected = [len(array) for array in encode_lines(odd_text, tokenizer)]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    limits = range(0, 30_000, 1000)
    with FORK.Pool(1) as pool:
        arguments = odd_text, str(tmp_path / "tokenizer"), limits
        rows = pool.apply(encode_with_size_limits, arguments)
    for message, incomplete, lengths in rows:
        if message is not None:
            assert "disk of" in message and "is full" in message and "\n" not in message
        assert lengths == expected and incomplete == []
    assert sum(message is not None for message, *_ in rows) > 10 and rows[-1][0] is None


def encode_while_files_disappear(text, tokenizer_folder):
    """The different sums of a text's token ids and line ends; removes a JSON file after each time."""
    tokenizer = load_tokenizer(tokenizer_folder, None)
    sums = set()
    for _ in range(8):
        ids, line_ends, _ = encode_lines(text, tokenizer)
        sums.add((int(ids.sum()), int(line_ends.sum())))
        json_file = next(iter(text.parent.glob("text-*.json")), text.parent / "none")
        json_file.unlink(missing_ok=True)
    return sums


def test_several_processes_can_make_the_same_files_at_once(tmp_path, odd_text, tokenizer):
    """Others have another tokenizer, and files disappear all the time."""
    tokenizer.save_pretrained(tmp_path / "0")
    learn_wordpiece(odd_text, vocab_size=150).save_pretrained(tmp_path / "1")
    with FORK.Pool(4) as pool:
        arguments = [(odd_text, str(tmp_path / f"{i % 2}")) for i in range(4)]
        sums = pool.starmap(encode_while_files_disappear, arguments, chunksize=1)
    assert all(len(found) == 1 for found in sums)
    assert sums[0] == sums[2] != sums[1] == sums[3]


# special tokens and words


def test_special_tokens_in_a_text_are_plain_text(tmp_path, tokenizer):
    """The tokenizer still recognizes them in a sentence that a person enters."""
    special = tokenizer.all_special_tokens
    assert len(special) == 5
    (tmp_path / "a.txt").write_text("".join(f"the {name} word\n" for name in special))
    ids, line_ends, _ = encode_lines(tmp_path / "a.txt", tokenizer)
    for name, line_ids in zip(special, np.split(ids, line_ends[:-1]), strict=True):
        spaced = f"the [ {name.strip('[]')} ] word"
        assert line_ids.tolist() == tokenizer(spaced, add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_tokens_to_ids(name) in tokenizer(f"the {name} word")["input_ids"]


def test_blank_lines_are_left_out_and_lines_without_tokens_are_not(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a b\n\n\u200b\nc\n \n", "utf-8")
    _, line_ends, _ = encode_lines(tmp_path / "a.txt", tokenizer)
    assert line_ends.tolist() == [2, 2, 3]


# lines that are joined


def units(lines, max_chars, monkeypatch, across_documents=False):
    """The documents that `join_lines` makes of lines, and the length of its longest piece."""
    monkeypatch.setattr(token_ids, "MAX_PIECE_CHARS", max_chars)
    pieces = [*join_lines([(line, True) for line in lines], across_documents)]
    found = [""]
    for text, ends_unit in pieces:
        found[-1] += text
        if ends_unit:
            found.append("")
    assert found.pop() == ""
    return found, max(len(text) for text, _ in pieces)


@pytest.mark.parametrize("max_chars", [1, 6, 100])
def test_lines_of_a_document_are_joined_by_a_space(monkeypatch, max_chars):
    lines = ["", "a b", "c", "", "", "d", "", "efg", "h", "i", ""]
    found, longest = units(lines, max_chars, monkeypatch)
    assert found == ["a b c", "d", "efg h i"]
    assert longest <= max(max_chars, len(" efg"))
    found, _ = units(lines, max_chars, monkeypatch, across_documents=True)
    assert found == ["a b c d efg h i"]


def test_parts_of_a_long_line_are_not_separated(monkeypatch):
    monkeypatch.setattr(token_ids, "MAX_PIECE_CHARS", 4)
    pieces = [("one", False), (" two", False), ("three", True), ("four", True), ("", True)]
    assert [*join_lines(pieces)] == [
        ("one", False),
        (" two", False),
        ("three", False),
        (" four", True),
    ]


def test_the_units_of_a_text_have_files_of_their_own(odd_text, tokenizer):
    files = {encode_lines(odd_text, tokenizer, unit)[0].filename for unit in token_ids.UNITS}
    assert len(files) == 3
    before = {path.name for path in odd_text.parent.iterdir()}
    encode_lines(odd_text, tokenizer)
    assert before == {path.name for path in odd_text.parent.iterdir()}


# words


@pytest.mark.parametrize("texts", [["a", "b"], ["a b", "c", "d ab"], ["abc", "", "b a"]])
def test_a_word_starts_where_a_text_starts(long_words, texts):
    _, tokenizer = long_words
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    expected = []
    for encoding in encodings:
        previous = [None, *encoding.word_ids]
        expected += [a != b for a, b in zip(encoding.word_ids, previous)]
    assert find_word_starts(encodings).tolist() == expected


def test_words_are_the_tokenizers_words(long_words):
    """Except that [UNK] and each token of a word with more than ten tokens is a word of its own."""
    path, tokenizer = long_words
    ids, line_ends, word_starts = encode_lines(path, tokenizer)
    starts = np.concatenate([[0], line_ends[:-1]])
    for line, start, end in zip(path.read_text().splitlines(), starts, line_ends, strict=True):
        encoded = tokenizer(line, add_special_tokens=False)
        word_ids = encoded.word_ids()
        assert ids[start:end].tolist() == encoded["input_ids"]
        assert word_starts[start:end].tolist() == [
            word_ids.count(word) > 10 or word_ids.index(word) == k
            for k, word in enumerate(word_ids)
        ]


# time and memory


@pytest.mark.slow
def test_time_is_linear_in_the_text_and_memory_does_not_grow(tmp_path, tokenizer):
    """A text, four times as much of it, and the same in lines of 8 KB or in a single line."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    lines = sentences(4000)
    for name, copies in (("small", 1), ("large", 4)):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines * copies), "utf-8")
    assert (tmp_path / "large.txt").stat().st_size > 1_500_000
    text = " ".join(lines * 4)
    for name, size in (("long", 8000), ("single", 10**9)):
        rows = [text[i : i + size] for i in range(0, len(text), size)]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows), "utf-8")
    program = """
import json, time
from pathlib import Path
from helpers import peak_memory
from mlm.data import token_ids, tokenizer
token_ids.FAST_BATCH_CHARS //= 4
tokenizer.MAX_PIECE_CHARS //= 4
folder = Path(sys.argv[1])
loaded = tokenizer.load_tokenizer(str(folder / "tokenizer"), None)
rows = []
for name in ("small", "large", "long", "single"):
    start = time.process_time()
    ids, line_ends, _ = token_ids.encode_lines(folder / f"{name}.txt", loaded)
    rows.append([time.process_time() - start, peak_memory(), len(line_ends), len(ids)])
print(json.dumps(rows))
"""
    small, large, long, single = json_output(start_python(program, tmp_path))
    for seconds, peak, num_lines, num_tokens in (small, large, long, single):
        print(f"{seconds:.2f} s, {peak / 1e6:.0f} MB, {num_lines} lines, {num_tokens} tokens")
    assert large[2:] == [4 * small[2], 4 * small[3]]
    assert large[0] < 8 * small[0]  # 4 if linear, 16 if quadratic
    assert large[1] - small[1] < 20e6
    assert long[2] > 100 and single[2:] == [1, large[3]]
    assert max(long[1], single[1]) - small[1] < 30e6
    sizes = [path.stat().st_size for path in tmp_path.glob("large-*.[bie]*")]
    assert sum(sizes) == 5 * large[3] + 8 * large[2]
