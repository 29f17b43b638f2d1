"""General text: lines that are measured and never trained on, and text that is replayed at a rate."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import mlm.data.general
from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.general import GENERAL_CHARS, load_general, load_replay
from mlm.data.mixture import count_units
from mlm.data.split import normalize
from mlm.data.token_frequencies import log_frequencies
from mlm.env.files import read_checked_json
from mlm.training.datamodule import MaskedLMData

MODEL = "a pretrained model"


def write(path, count, words=(), seed=None):
    """A file of lines, all different, that begin with its own name, with some given lines among them."""
    lines = [f"{path.stem} {line}" for line in sentences(count, seed=seed or path.stem)]
    path.write_text("\n".join([*lines[:430], *words, *lines[430:]]) + "\n", encoding="utf-8")
    return str(path)


def lines_of(path):
    """The lines of a file in the form in which they are compared."""
    return {normalize(line) for line in Path(path).read_text("utf-8").splitlines() if line.strip()}


@pytest.fixture
def texts(tmp_path):
    """(corpus, wide): files of 400 and 1,800 lines. The second one also has 300 lines of the first one."""
    corpus = write(tmp_path / "spirit.txt", 400)
    shared = Path(corpus).read_text("utf-8").splitlines()[100:]
    return corpus, write(tmp_path / "truth.txt", 1500, shared)


@pytest.fixture
def load(tmp_path, tokenizer):
    """A function: corpus, general and replay -> (corpus folder, GeneralText or None, folder to train on)."""

    def load(
        corpus, general=None, replay=None, fraction=0.1, model=MODEL, documents=None, **options
    ):
        work = tmp_path / "work"
        reading = dict(workdir=work, column="text", encoding=None, documents=documents) | options
        folder = load_corpus(corpus, work, documents=documents)
        text = load_general(general, model, folder, tokenizer, 32, **reading)
        return folder, text, load_replay(replay, fraction, folder, text, **reading)

    return load


def dataset(folder, tokenizer, examples="line"):
    """The training examples of 04."""
    mixture = read_checked_json(folder / "corpus.json").get("mixture", [])
    return MaskedLMDataset(folder / "train.txt", tokenizer, 32, examples, mixture)


def is_replayed(data, folder):
    """Whether each line of a dataset is of the replayed text, (examples,)."""
    own = read_checked_json(folder / "corpus.json")["mixture"][:-1]
    return data.epochs.examples >= sum(text["lines"] for text in own)


# what is measured


@pytest.mark.parametrize("same", [True, False])
def test_measured_lines_are_never_trained_on(texts, load, tmp_path, same):
    """Neither as lines of the corpus nor as replayed ones, also if the two texts are different files."""
    corpus, wide = texts
    replay = wide
    if not same:  # a folder with the general text in it
        (tmp_path / "all").mkdir()
        write(tmp_path / "all" / "a.txt", 333)  # so other blocks of lines are held out
        shutil.copy(wide, tmp_path / "all" / "b.txt")
        replay = str(tmp_path / "all")
    folder, text, trained_on = load(corpus, wide, replay)
    measured, trained = lines_of(text.path), lines_of(trained_on / "train.txt")
    assert len(measured) == len(text.examples) == text.about["lines"] > 20
    assert not measured & trained and not measured & lines_of(corpus)
    assert all(line.startswith("truth") for line in measured)
    assert lines_of(folder / "train.txt") < trained
    assert not lines_of(folder / "valid.txt") & trained


def test_long_texts_are_measured_on_a_few_lines_from_everywhere(tmp_path, texts, load):
    """The number of characters is limited, and of a line without end as many as can matter."""
    general = write(tmp_path / "beyond.txt", 20_000)
    _, text, _ = load(texts[0], general)
    lines = text.path.read_text("utf-8").splitlines()
    assert 0.9 * GENERAL_CHARS < sum(map(len, lines)) < 1.1 * GENERAL_CHARS
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == sorted(numbers) and min(numbers) < 1000 and max(numbers) > 19_000
    long = tmp_path / "long.txt"
    long.write_text("\n".join(line * 100 for line in sentences(2000)), encoding="utf-8")
    _, text, _ = load(texts[0], str(long))
    assert text.about["lines"] >= 40


def test_the_default_is_a_text_that_needs_no_network(texts, load, capsys):
    _, text, _ = load(texts[0])
    assert text.about["source"] == "pydoc" and len(text.examples) > 100
    assert f"measured on {text.about['lines']:,} lines of pydoc" in capsys.readouterr().out


def test_a_model_from_scratch_has_nothing_to_forget(texts, load, capsys, monkeypatch):
    """And nothing is read for it."""
    monkeypatch.setattr(mlm.data.general, "load_other", None)
    folder, text, trained_on = load(texts[0], texts[1], model="scratch:tiny")
    assert text is None and trained_on == folder
    assert "starts from scratch has nothing to forget" in capsys.readouterr().out


def test_a_default_that_is_the_corpus_is_not_measured_and_a_given_one_refused(load, capsys):
    _, text, _ = load("pydoc")
    printed = capsys.readouterr().out
    assert text is None and "forgetting is not measured: general='pydoc' must have" in printed
    with refused("general='pydoc' must have at least", "got 0", "pass general=FILE"):
        load("pydoc", "pydoc")


def test_the_corpus_may_be_encoded_or_be_a_table(tmp_path, load):
    """Named texts are UTF-8 all the same, and other texts need no such column."""
    table = tmp_path / "a.csv"
    rows = "\n".join(f'"{line}"' for line in sentences(200))
    table.write_text(f"body\n{rows}\n", encoding="utf-16")
    folder = load_corpus(str(table), tmp_path / "work", "body", encoding="utf-16")
    reading = dict(workdir=tmp_path / "work", column="body", encoding="utf-16", documents=None)
    trained_on = load_replay("pydoc", 0.1, folder, None, **reading)
    assert "the" in (trained_on / "train.txt").read_text("utf-8")[20_000:].split()


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["general", "replay"])
def test_a_text_that_is_not_there_is_named_with_its_parameter(tmp_path, texts, load, parameter):
    with refused(f"{parameter}='missing.txt'", "does not exist"):
        load(texts[0], **{parameter: "missing.txt"})
    (tmp_path / "empty.txt").write_text("\n\n")
    with refused(f"{parameter}='{tmp_path}/empty.txt'", "has no text"):
        load(texts[0], **{parameter: str(tmp_path / "empty.txt")})
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10)
    with refused(f"{parameter}='{tmp_path}/image.txt'", "PNG"):
        load(texts[0], **{parameter: str(tmp_path / "image.txt")})
    (tmp_path / "same.txt").write_text("one line\n" * 100)
    with refused(f"{parameter}='{tmp_path}/same.txt'", "too few different lines"):
        load(texts[0], **{parameter: str(tmp_path / "same.txt")})


@pytest.mark.fault
def test_a_general_text_that_is_too_short_is_refused(tmp_path, texts, load):
    with refused("general=", "at least 200 tokens", "longer text"):
        load(texts[0], write(tmp_path / "few.txt", 12))


# what is replayed


@pytest.mark.fault
def test_a_text_of_which_nothing_is_left_to_replay_is_refused(texts, load):
    with refused("replay=", "all of its lines occur in corpus"):
        load(texts[0], texts[1], texts[0])


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_each_epoch_has_the_fraction_of_replayed_examples_and_its_own_lines(
    texts, load, tokenizer, fraction
):
    """Also if the replayed text is too short for it: then its lines are repeated."""
    folder, _, trained_on = load(texts[0], texts[1], texts[1], fraction)
    data, own = dataset(trained_on, tokenizer), dataset(folder, tokenizer)
    drawn = []
    for epoch in range(3):
        indices = data.epochs.of_epoch(7, epoch)
        replayed = is_replayed(data, trained_on)[indices]
        assert len(indices) == len(data.epochs) and (~replayed).sum() == len(own)
        assert abs(replayed.sum() - len(own) * fraction / (1 - fraction)) <= 0.5
        drawn.append(indices[replayed])
    assert [*data.epochs.of_epoch(7, 0)] == [*dataset(trained_on, tokenizer).epochs.of_epoch(7, 0)]
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_corpus_may_itself_be_a_mixture(tmp_path, texts, load, tokenizer):
    corpus = [f"{texts[0]}*2", write(tmp_path / "beyond.txt", 200)]
    folder, _, trained_on = load(corpus, texts[1], texts[1], 0.2)
    own, data = dataset(folder, tokenizer), dataset(trained_on, tokenizer)
    assert data.epochs.per_source[:2].tolist() == own.epochs.per_source.tolist()
    assert data.epochs.per_source[2] == round(len(own.epochs) / 4)


def test_blocks_are_replayed_by_the_fraction_of_examples(texts, load, tokenizer):
    folder, _, trained_on = load(*texts, texts[1], 0.3, documents="line")
    data = dataset(trained_on, tokenizer, "block")
    own = dataset(folder, tokenizer, "block")
    assert data.epochs.per_source.tolist() == [len(own), round(len(own) * 3 / 7)]


@pytest.mark.fault
def test_blocks_across_texts_are_refused(texts, load, tokenizer):
    _, _, trained_on = load(*texts, texts[1])
    with refused("examples must be", "or replay is given", 'examples="block"'):
        dataset(trained_on, tokenizer, "stream")


@pytest.mark.fault
def test_a_text_that_would_be_repeated_too_often_is_refused(tmp_path, texts, load, tokenizer):
    _, _, trained_on = load(texts[0], texts[1], write(tmp_path / "few.txt", 12), 0.9)
    with refused("replay has", "repeat each of them", "at most 100", "longer text"):
        dataset(trained_on, tokenizer)


def test_the_unigram_baseline_and_a_new_head_know_the_corpus_alone(texts, load, tokenizer):
    folder, _, trained_on = load(*texts, texts[1])
    own, mixed = dataset(folder, tokenizer), dataset(trained_on, tokenizer)
    assert len(mixed.ids) > len(own.ids) == len(mixed.own_ids)
    assert np.array_equal(log_frequencies(own), log_frequencies(mixed))


def test_resumed_runs_and_several_processes_get_the_same_batches(texts, load, tokenizer):
    _, _, trained_on = load(*texts, texts[1], 0.3)
    data = dataset(trained_on, tokenizer)
    make = lambda size: MaskedLMData(data, data, size, 0.15, seed=1, total_steps=150)  # noqa: E731
    batches = [*make(8).train_batches()]
    assert len(batches) == 150 > 2 * -(-len(data.epochs) // 8)
    for start in (1, 77, 149):
        for one, other in zip(batches[start:], make(8).train_batches(start), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    processes = [[*make(4).train_batches(0, rank, 2)] for rank in range(2)]
    for one, *parts in zip(batches, *processes, strict=True):
        assert one["num_masked"] == parts[0]["num_masked"] == parts[1]["num_masked"]
        tokens = np.sort(np.concatenate([part["input_ids"].numpy().ravel() for part in parts]))
        expected = np.sort(one["input_ids"].numpy().ravel())
        padding = tokenizer.pad_token_id
        assert np.array_equal(tokens[tokens != padding], expected[expected != padding])


def test_another_text_fraction_or_general_text_makes_another_run(tmp_path, texts, load):
    """What is stored says so, without folders of the machine; the same values make the same run."""
    other = write(tmp_path / "other.txt", 400)
    values = [(None, 0.1), (texts[1], 0.1), (texts[1], 0.2), (other, 0.1)]
    sums = []
    for general in (texts[1], other):
        for replay, fraction in values:
            _, _, trained_on = load(texts[0], general, replay, fraction)
            about = read_checked_json(trained_on / "corpus.json")
            sums.append((about.get("replay") or {"sha256": None})["sha256"])
            assert load(texts[0], general, replay, fraction)[2] == trained_on
            assert str(tmp_path) not in (trained_on / "corpus.json").read_text()
    assert sums[0] is sums[4] is None and len({*sums}) == 7


def test_damaged_files_are_made_again(texts, load):
    _, text, trained_on = load(*texts, texts[1])
    before = [path.read_bytes() for path in (text.path, trained_on / "train.txt")]
    text.path.write_text("damage")
    (trained_on / "train.txt").unlink()
    _, text, trained_on = load(*texts, texts[1])
    assert [path.read_bytes() for path in (text.path, trained_on / "train.txt")] == before
    assert not list(trained_on.glob("*.part*"))


def test_replayed_lines_are_counted(texts, load):
    _, _, trained_on = load(*texts, texts[1])
    mixture = read_checked_json(trained_on / "corpus.json")["mixture"]
    lines, documents = count_units(trained_on / "train.txt")
    assert sum(text["lines"] for text in mixture) == lines
    assert sum(text["documents"] for text in mixture) == documents
    assert [text["name"] for text in mixture] == ["spirit", "truth.txt"]
