"""Tokens and examples, held against the tokenizer itself."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

import mlm.data.dataset as tokens
import mlm.data.token_ids as token_ids
import mlm.data.tokenizer as tokenizers_
from helpers import ROOT, refused, sentences
from hosts import serve

PATHS = [str(ROOT / "tests"), str(ROOT / "notebooks")]
LOAD = f"import sys; sys.path[:0] = {PATHS}\nfrom helpers import refused\nimport mlm.data.dataset as tokens\nimport mlm.data.token_ids as token_ids\nimport mlm.data.tokenizer as tokenizers_\n"


def start(program, *arguments, **environment):
    """A Python process that has the names of conftest and runs this program."""
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + program, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    """What such a process printed, as JSON."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture
def text(tmp_path, corpus_folder):
    """A copy of the training lines with odd ones among them."""
    odd = [
        "   spaces around   ",
        "\u200b\u200b",  # not blank to Python, no token to BERT
        "[MASK] and [SEP] in the text",
        "Größe ÜBER 語語 🙂 \u00ad",
        "word " * 500,
        "x" * 300,  # longer than WordPiece reads a word: [UNK]
        ".",
    ]
    path = tmp_path / "text.txt"
    path.write_text((corpus_folder / "train.txt").read_text("utf-8") + "\n".join(odd), "utf-8")
    return path


@pytest.fixture
def reference(tokenizer, tmp_path):
    """The same tokenizer once more: asking it leaves no settings behind in the first."""
    tokenizer.save_pretrained(tmp_path / "reference")
    return AutoTokenizer.from_pretrained(tmp_path / "reference")


# examples="line"


@pytest.mark.parametrize("max_len", [8, 16, 128])
def test_each_line_is_what_the_tokenizer_makes_of_it(text, tokenizer, reference, max_len):
    dataset = tokens.MaskedLMDataset(text, tokenizer, max_len)
    lines = text.read_text("utf-8").split("\n")
    how = dict(split_special_tokens=True, truncation=True, max_length=max_len)
    expected = [reference(line, **how)["input_ids"] for line in lines]
    expected = [ids for ids in expected if len(ids) > 2]  # [CLS] [SEP] alone asks nothing
    assert [example.tolist() for example in dataset] == expected
    assert len(dataset) == len(expected)
    assert dataset.lengths.tolist() == [len(ids) - 2 for ids in expected]
    plain = dict(split_special_tokens=True, add_special_tokens=False)
    whole = sum(len(reference(line, **plain)["input_ids"]) for line in lines)
    assert dataset.num_truncated == whole - sum(dataset.lengths)
    assert (dataset.num_truncated > 0) == (max_len < 600)


def test_an_example_is_a_1d_int64_tensor(dataset):
    example = dataset[3]
    assert (example.dtype, example.ndim) == (torch.int64, 1)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_nothing_is_truncated_where_all_fits(corpus_folder, tokenizer):
    assert tokens.MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 512).num_truncated == 0


# examples="block"


@pytest.mark.parametrize("max_len", [8, 33, 128])
def test_blocks_are_all_tokens_in_a_row(text, tokenizer, reference, max_len):
    dataset = tokens.MaskedLMDataset(text, tokenizer, max_len, "block")
    lines = text.read_text("utf-8").split("\n")
    plain = dict(split_special_tokens=True, add_special_tokens=False)
    expected = [i for line in lines for i in reference(line, **plain)["input_ids"]]
    found = [example.tolist() for example in dataset]
    assert [i for ids in found for i in ids[1:-1]] == expected
    special = reference.cls_token_id, reference.sep_token_id
    assert {(ids[0], ids[-1]) for ids in found} == {special}
    assert {len(ids) for ids in found[:-1]} == {max_len}
    assert 3 <= len(found[-1]) <= max_len
    assert dataset.lengths.tolist() == [len(ids) - 2 for ids in found]
    assert dataset.num_truncated == 0


def test_blocks_that_fit_exactly(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a\n" * 12)
    dataset = tokens.MaskedLMDataset(tmp_path / "a.txt", tokenizer, 8, "block")
    assert [len(example) for example in dataset] == [8, 8]


# what a tokenizer.json may bring along


@pytest.mark.parametrize("examples", ["line", "block"])
@pytest.mark.fault
def test_padding_and_truncation_baked_into_the_file_change_nothing(
    tmp_path, text, tokenizer, examples
):
    expected = tokens.MaskedLMDataset(text, tokenizer, 64, examples)
    tokenizer.save_pretrained(tmp_path / "baked")
    path = tmp_path / "baked" / "tokenizer.json"
    setup = json.loads(path.read_text("utf-8"))
    setup["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    setup["truncation"] = {
        "direction": "Right",
        "max_length": 20,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(setup), "utf-8")
    baked = tokenizers_.load_tokenizer(str(tmp_path / "baked"), None)
    shape = json.loads(baked.backend_tokenizer.to_str())
    assert (shape["padding"]["strategy"], shape["truncation"]["max_length"]) == ({"Fixed": 128}, 20)
    dataset = tokens.MaskedLMDataset(text, baked, 64, examples)
    assert [e.tolist() for e in dataset] == [e.tolist() for e in expected]


# the arrays on disk


def test_arrays_are_mapped_and_made_once(text, tokenizer, monkeypatch):
    ids, ends, _ = token_ids.encode_lines(text, tokenizer)
    assert isinstance(ids, np.memmap) and isinstance(ends, np.memmap)
    assert (ids.dtype, ends.dtype) == (np.int32, np.int64)
    assert ends[-1] == len(ids) and (np.diff(ends) > 0).all()

    def asked(*_, **__):
        raise AssertionError("tokenized once more")

    monkeypatch.setattr(type(tokenizer), "__call__", asked)
    again, *_ = token_ids.encode_lines(text, tokenizer)
    assert again.filename == ids.filename
    text.write_text("a changed text\n")
    with pytest.raises(AssertionError, match="once more"):
        token_ids.encode_lines(text, tokenizer)


def test_another_vocabulary_makes_other_arrays(text, tokenizer):
    other = tokenizers_.learn_wordpiece(text, vocab_size=150)
    mine, theirs = (token_ids.encode_lines(text, t)[0] for t in (tokenizer, other))
    assert mine.filename != theirs.filename
    assert len(theirs) > len(mine)


def test_tokenizing_that_was_cut_off_is_done_again(text, tokenizer, monkeypatch):
    expected = [array.tolist() for array in token_ids.encode_lines(text, tokenizer)]
    for path in text.parent.glob("text-*"):
        path.unlink()
    real, calls = type(tokenizer).__call__, []

    def dies(self, batch, **options):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "__call__", dies)
        patch.setattr(tokens, "BATCH_CHARS", 5000)
        with pytest.raises(KeyboardInterrupt):
            token_ids.encode_lines(text, tokenizer)
    assert [array.tolist() for array in token_ids.encode_lines(text, tokenizer)] == expected


def test_batches_of_lines_leave_no_seam(text, tokenizer, monkeypatch):
    """The same comes out of a few lines at a time, and of lines cut into short pieces at spaces."""
    expected = [array.tolist() for array in token_ids.encode_lines(text, tokenizer)]
    vocabulary = tokenizers_.learn_wordpiece(text).get_vocab()
    for name, size in (("BATCH", 1), ("BATCH", 700), ("PIECE", 301)):
        for path in text.parent.glob("text-*"):
            path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(tokens, name, size)
            assert [array.tolist() for array in token_ids.encode_lines(text, tokenizer)] == expected
            assert tokenizers_.learn_wordpiece(text).get_vocab() == vocabulary


def test_a_long_line_without_a_space_loses_no_letter(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "MAX_PIECE_CHARS", 7)
    (tmp_path / "a.txt").write_text(
        "x" * 7 + "\n" + "y" * 30 + " z\n\n" + "ab cd ef gh ij\n", "utf-8"
    )
    found = list(tokenizers_.split_long_lines(tmp_path / "a.txt"))
    assert "".join(text + "\n" * end for text, end in found) == (tmp_path / "a.txt").read_text()
    assert max(len(text) for text, _ in found) <= 7


# whole files


def arrays(folder):
    """{name: content} of all that stands beside a text; of a record what it says."""
    found = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
    return found | {name: found[name].rstrip() for name in found if name.endswith(".json")}


def damages(content, others):
    """What may become of a file: names and new content; None: it is gone."""
    for part in (0, 0.3, 0.999):
        at = int(part * len(content))
        for bit in (1, 128):
            yield f"{at} flipped", content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        yield f"cut to {at}", content[:at]
    yield "longer", content + b"\0" * 8
    yield "gone", None
    for name, other in others.items():
        yield f"is {name}", other


@pytest.mark.fault
def test_what_was_damaged_is_made_again(text, tokenizer):
    """Every file beside the text, in every way; also exchanged for another, another text's included."""
    folder = text.parent
    other = folder / "other"
    other.mkdir()
    (other / "text.txt").write_text("another\nquite another text\n" * 9)
    token_ids.encode_lines(other / "text.txt", tokenizer)
    foreign = {f"another's {name.rpartition('.')[2]}": c for name, c in arrays(other).items()}
    shutil.rmtree(other)
    expected = [array.tolist() for array in token_ids.encode_lines(text, tokenizer)]
    whole, tried = arrays(folder), 0
    made = {name: content for name, content in whole.items() if name != "text.txt"}
    assert len(made) == 4
    for name, content in made.items():
        others = {n: c for n, c in made.items() if n != name} | foreign
        for way, damaged in damages(content, others):
            (folder / name).unlink()
            if damaged is not None:
                (folder / name).write_bytes(damaged)
            found = [array.tolist() for array in token_ids.encode_lines(text, tokenizer)]
            assert found == expected and arrays(folder) == whole, (name, way)
            tried += 1
    assert tried == 76


def test_older_arrays_and_parts_go_and_no_other_file_does(text, tokenizer):
    folder = text.parent
    keep = "text-notes.json", "text-0123456789ab.txt", "texts-0123456789ab.ids"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    token_ids.encode_lines(text, tokenizer)
    text.write_text("an older text\n" * 20)
    other = tokenizers_.learn_wordpiece(text)
    for name in keep:
        (folder / name).write_text("mine")
    for name in ("text-0123456789ab.ids", f"text.ids.{socket.gethostname()}-{dead.pid}.part"):
        (folder / name).write_text("half")
    for each in (tokenizer, other, tokenizer):  # two tokenizers of one text live side by side
        token_ids.encode_lines(text, each)
    left = sorted(name for name in arrays(folder) if name not in (*keep, "text.txt"))
    assert [name.rpartition(".")[2] for name in left] == ["begins", "ends", "ids", "json"] * 2, left
    assert {*keep} < arrays(folder).keys()


@pytest.mark.fault
def test_a_full_disk_is_said_and_nothing_half_written_is_used(tmp_path, text, tokenizer):
    """With every limit between too little for anything and enough."""
    expected = [len(array) for array in token_ids.encode_lines(text, tokenizer)]
    for path in text.parent.glob("text-*"):
        path.unlink()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    program = """
import json, os, resource, signal
from pathlib import Path
from mlm.env.notebook import error_message
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
text, none = Path(sys.argv[1]), resource.RLIM_INFINITY
tokenizer = tokenizers_.load_tokenizer(sys.argv[2], None)
rows = []
for limit in (*range(0, 60_000, 1000), none):
    for path in text.parent.glob("text-*"):
        path.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, none))
    line = refusal(token_ids.encode_lines, text, tokenizer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (none, none))
    parts = [path.name for path in text.parent.glob("*.part")]
    rows.append([line, parts, [len(array) for array in token_ids.encode_lines(text, tokenizer)]])
print(json.dumps(rows))
"""
    rows = result(start(program, text, tmp_path / "tokenizer"))
    for line, parts, found in rows:
        assert line is None or ("disk of" in line and "is full" in line and "\n" not in line), line
        assert found == expected and parts == []
    assert sum(line is not None for line, _, _ in rows) > 30 and rows[-1][0] is None


def test_several_that_make_the_same_arrays_at_once_all_succeed(tmp_path, text, tokenizer):
    """And others with another tokenizer, and while files are taken away."""
    tokenizer.save_pretrained(tmp_path / "0")
    tokenizers_.learn_wordpiece(text, vocab_size=150).save_pretrained(tmp_path / "1")
    program = """
from pathlib import Path
import json
text, tokenizer = Path(sys.argv[1]), tokenizers_.load_tokenizer(sys.argv[2], None)
sums = set()
for _ in range(8):
    ids, ends, _ = token_ids.encode_lines(text, tokenizer)
    sums.add((int(ids.sum()), int(ends.sum())))
    next(iter(text.parent.glob("text-*.json")), text.parent / "none").unlink(missing_ok=True)
print(json.dumps(sorted(sums)))
"""
    jobs = [start(program, text, tmp_path / f"{i % 2}") for i in range(4)]
    sums = [result(job) for job in jobs]
    assert all(len(found) == 1 for found in sums)
    assert sums[0] == sums[2] != sums[1] == sums[3]


# what a text holds


def test_special_tokens_in_a_text_are_text(tmp_path, tokenizer):
    """And the tokenizer still knows them where a person asks."""
    special = tokenizer.all_special_tokens
    assert len(special) == 5
    (tmp_path / "a.txt").write_text("".join(f"the {name} word\n" for name in special) * 9)
    ids, ends, _ = token_ids.encode_lines(tmp_path / "a.txt", tokenizer)
    assert not np.isin(
        ids[:], [tokenizer.convert_tokens_to_ids(n) for n in special if n != "[UNK]"]
    ).any()
    assert len(ends) == 45
    for name in special:
        assert tokenizer.convert_tokens_to_ids(name) in tokenizer(f"the {name} word")["input_ids"]


@pytest.mark.fault
@pytest.mark.parametrize(
    "line", ["\u0e01" * 150, "0123456789abcdef" * 20, "a" * 101 + " the " + "b" * 101]
)
def test_a_text_that_is_mostly_unknown_is_refused(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"{line}\n" * 20, "utf-8")
    learned = tokenizers_.load_tokenizer("scratch:tiny", tmp_path / "a.txt")
    with refused("a.txt", "% of its tokens are [UNK]", "spaces", "scratch:tiny"):
        tokens.MaskedLMDataset(tmp_path / "a.txt", learned)


def test_a_learned_tokenizer_knows_how_much_bert_can_read(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.model_max_length == 512
    assert tokenizers_.load_tokenizer(str(tmp_path), None).model_max_length == 512


def test_nothing_asked_is_no_loss_of_zero(tmp_path, tokenizer):
    from mlm.data.batches import MaskedBatches
    from mlm.training.evaluation import unigram_loss

    (tmp_path / "a.txt").write_text("a\n")
    data = tokens.MaskedLMDataset(tmp_path / "a.txt", tokenizer)
    batches = MaskedBatches(data, [(0, np.arange(1))], 1e-9, 0)
    with refused("no token of the held-out lines is asked about", "pass a corpus"):
        unigram_loss(data, batches)


@pytest.mark.fault
def test_a_text_without_tokens_is_refused(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("\u200b\n" * 20, "utf-8")
    for _ in range(2):
        with refused("a.txt", "finds no token", "really text?"):
            tokens.MaskedLMDataset(tmp_path / "a.txt", tokenizer)


# the vocabulary


def test_a_learned_vocabulary_is_the_same_everywhere(corpus_folder):
    program = (
        "learned = tokenizers_.learn_wordpiece(sys.argv[1])\n"
        "import json; print(json.dumps(learned.get_vocab()))"
    )
    path = corpus_folder / "train.txt"
    other = start(program, path, PYTHONHASHSEED="1", RAYON_NUM_THREADS="1")
    mine = tokenizers_.learn_wordpiece(path).get_vocab()
    assert result(other) == mine


def test_a_learned_vocabulary_covers_its_text(tokenizer, corpus_folder):
    text = (corpus_folder / "train.txt").read_text("utf-8")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == (
        tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        .replace(" ", "")
        .replace("\n", "")
    )
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(5)] == (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_more_letters_than_the_vocabulary_has_room(tmp_path):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 400))), "utf-8")
    learned = tokenizers_.learn_wordpiece(tmp_path / "a.txt", vocab_size=100)
    assert learned.unk_token_id not in learned("\u4e00 \u4e10 \u4f8f")["input_ids"]


def test_scratch_learns_and_a_folder_is_loaded(corpus_folder, tokenizer, tmp_path):
    learned = tokenizers_.load_tokenizer("scratch:tiny", corpus_folder / "train.txt")
    assert isinstance(learned, BertTokenizer)
    assert (
        learned.get_vocab() == tokenizers_.learn_wordpiece(corpus_folder / "train.txt").get_vocab()
    )
    tokenizer.save_pretrained(tmp_path)
    line = "Philosophers' morality, ÜBER alles"
    loaded = tokenizers_.load_tokenizer(str(tmp_path), None)
    assert loaded(line)["input_ids"] == tokenizer(line)["input_ids"]


@pytest.mark.parametrize("role", ["mask", "pad", "cls", "sep"])
@pytest.mark.fault
def test_a_tokenizer_that_cannot_mask_is_refused(tmp_path, tokenizer, role):
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("mask", "pad", "cls", "sep")}
    del special[f"{role}_token"]
    lacks = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    lacks.save_pretrained(tmp_path)
    with refused(f"model={str(tmp_path)!r}", f"has no {role} token", "bert-base-uncased"):
        tokenizers_.load_tokenizer(str(tmp_path), None)


@pytest.mark.fault
def test_no_tokenizer_there(tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    tokenizer.save_pretrained(tmp_path / "damaged")
    for path in (tmp_path / "damaged").glob("*.json"):
        path.write_text(path.read_text()[:100])
    for path in (tmp_path / "empty", tmp_path / "damaged", tmp_path / "gone"):
        with refused(
            f"model={str(path)!r}", "pass the name of a masked language model", '"scratch:tiny"'
        ):
            tokenizers_.load_tokenizer(str(path), None)


# a Hub that is not there (in a process of its own: the client reads the address when imported)


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["unknown name", "nobody there", "never answers"])
def test_a_hub_that_has_no_such_model(tmp_path, fault):
    """Its own client would try again for minutes where nobody answers."""
    over = threading.Event()

    def answer(path):
        if fault == "never answers":
            over.wait(60)
        return 401, {"X-Error-Code": "RepoNotFound"}, b""

    program = """
with refused("model='somebody/bert'", "no tokenizer found", sys.argv[1], "scratch:tiny"):
    tokenizers_.load_tokenizer("somebody/bert", None)
"""
    reason = "not a valid model identifier" if fault == "unknown name" else "couldn't connect"
    with serve(answer) as endpoint:
        endpoint = "http://127.0.0.1:9" if fault == "nobody there" else endpoint
        process = start(program, reason, HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint)
        errors = process.communicate()[1]
        over.set()
    assert process.returncode == 0, errors[-3000:]


# size


def test_time_is_linear_and_memory_small(tmp_path, corpus_folder, tokenizer):
    """A text of 1.5 MB, one of 6 MB, one in lines of 30 KB, one of a single line: in their own process."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    lines, size = sentences(15_000), 0
    for name, copies in (("small", 1), ("large", 4)):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines * copies), "utf-8")
    size = (tmp_path / "large.txt").stat().st_size
    assert size > 6_000_000
    for name, end in (("long", 30_000), ("single", 10**9)):
        text = " ".join(lines * 4)
        rows = [text[i : i + end].replace("\n", " ") for i in range(0, len(text), end)]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows), "utf-8")
    program = """
import json, resource, time
from pathlib import Path
folder = Path(sys.argv[1])
tokenizer = tokenizers_.load_tokenizer(str(folder / "tokenizer"), None)
rows = []
for name in ("small", "large", "long", "single"):
    start = time.process_time()
    ids, ends, _ = token_ids.encode_lines(folder / f"{name}.txt", tokenizer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows.append([time.process_time() - start, peak, len(ends), len(ids)])
print(json.dumps(rows))
"""
    (t1, peak1, n1, ids1), (t4, peak4, n4, ids4), long, single = result(start(program, tmp_path))
    print(f"{t1:.1f} s and {t4:.1f} s, peak {peak1 / 1e6:.0f} and {peak4 / 1e6:.0f} MB, {ids4} ids")
    assert (n4, ids4) == (4 * n1, 4 * ids1)
    assert t4 < 8 * t1  # linear would be 4, quadratic 16
    assert peak4 - peak1 < 60e6
    assert (long[2] > 100, single[2:]) == (True, [1, ids4])
    assert max(long[1], single[1]) - peak1 < 150e6
    used = [path.stat().st_size for path in tmp_path.glob("large-*.[bie]*")]
    assert sum(used) == 5 * ids4 + 8 * n4
    shutil.rmtree(tmp_path)  # these are the only large files of the tests
