"""Corpora mixed by weight: entries of a list, their joined split, and what an epoch has of each."""

from pathlib import Path

import numpy as np
import pytest

from helpers import refused, sentences
from mlm.data.batches import MaskedBatches
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.download import fetch_corpus
from mlm.data.formats import text_lines
from mlm.data.mixture import count_units, is_mixture, parse_entry
from mlm.data.packing import PackingPlan, TrainingOrder
from mlm.env.files import read_checked_json
from mlm.training.datamodule import MaskedLMData


@pytest.fixture
def texts(tmp_path):
    """Three files of 400, 200 and 100 lines; all lines of a file start with the same word."""
    paths = {}
    for name, count in (("truth", 400), ("spirit", 200), ("beyond", 100)):
        lines = [f"{name} {line}" for line in sentences(count, seed=name)]
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: str(path) for name, path in paths.items()}


def weighted(texts, **weights):
    return [f"{texts[name]}*{weight}" for name, weight in weights.items()]


# entries


@pytest.mark.parametrize(
    "entry, expected",
    [
        ("wiki.txt", ("wiki.txt", 1.0)),
        ("wiki.txt*2", ("wiki.txt", 2.0)),
        ("a b/wiki.txt *0.25", ("a b/wiki.txt", 0.25)),
        ("nietzsche*3", ("nietzsche", 3.0)),
        ("https://example.org/a.txt*.5", ("https://example.org/a.txt", 0.5)),
        ("texts/*.txt", ("texts/*.txt", 1.0)),
        ("texts/**/*.txt*2", ("texts/**/*.txt", 2.0)),
        ("texts/*2", ("texts/*2", 1.0)),
    ],
)
def test_an_entry_is_a_text_and_maybe_a_weight(entry, expected):
    assert parse_entry(entry) == expected


def test_a_pattern_that_matches_files_is_a_pattern(tmp_path):
    (tmp_path / "part-12").write_text("a")
    assert parse_entry(str(tmp_path / "part*2")) == (str(tmp_path / "part*2"), 1.0)
    assert parse_entry(str(tmp_path / "else*2")) == (str(tmp_path / "else"), 2.0)


@pytest.mark.fault
@pytest.mark.parametrize("weight", ["0", "0.0", "101", "1.2.3", ".", "-1", "abc", "nan", "inf"])
def test_an_invalid_weight_is_refused(texts, tmp_path, weight):
    with refused("weight", "above 0 and at most 100", f"got {weight} in", "*2"):
        load_corpus([texts["truth"], f"{texts['spirit']}*{weight}"], tmp_path)


@pytest.mark.parametrize("weight", ["2", " 2", " 2.0 ", "0.2e1"])
def test_a_weight_may_be_written_as_any_number(texts, weight):
    assert parse_entry(f"{texts['truth']}*{weight}") == (texts["truth"], 2)


def test_a_weight_without_a_list_is_refused_with_an_example_of_a_list(texts, tmp_path):
    with refused("matches no file", "weights are for the texts of a list", "['a.txt*2', 'b.txt']"):
        load_corpus(f"{texts['truth']}*2", tmp_path)
    with refused("matches no file") as message:
        load_corpus(f"{Path(texts['truth']).parent}/*.none", tmp_path)
    assert "weights" not in message()


def test_only_a_list_with_a_weight_other_than_1_is_a_mixture(texts):
    assert not is_mixture(texts["truth"]) and not is_mixture([*texts.values()])
    assert not is_mixture(weighted(texts, truth=1, spirit="1.0")) and is_mixture(
        weighted(texts, truth=1, spirit=2)
    )
    assert [path.name for path in fetch_corpus(weighted(texts, truth=2), "x")] == ["truth.txt"]


# the split


@pytest.mark.parametrize("with_valid_corpus", [False, True])
def test_a_mixture_has_each_training_line_once(texts, tmp_path, with_valid_corpus):
    valid_corpus = texts["beyond"] if with_valid_corpus else None
    corpus = weighted(texts, truth=2, spirit=0.5)
    folder = load_corpus(corpus, tmp_path / "work", valid_corpus=valid_corpus)
    about = read_checked_json(folder / "corpus.json")
    train, valid = ([*text_lines(folder / f"{part}.txt")] for part in ("train", "valid"))
    train, valid = ([line.strip() for line in part if line.strip()] for part in (train, valid))
    assert not {*train} & {*valid} and len({*train}) == len(train) == about["split"]["train"]
    assert len(valid) == about["split"]["valid"]
    assert {line.split()[0] for line in valid} == (
        {"beyond"} if with_valid_corpus else {"truth", "spirit"}
    )
    rows = [(row["name"], row["weight"], row["lines"]) for row in about["mixture"]]
    counts = [sum(line.startswith(name) for line in train) for name in ("truth", "spirit")]
    assert rows == [("truth", 2.0, counts[0]), ("spirit", 0.5, counts[1])]
    assert "truth x 2, spirit x 0.5" in about["split"]["rule"]
    assert load_corpus(corpus, tmp_path / "work", valid_corpus=valid_corpus) == folder


def test_a_validation_line_of_one_text_that_trains_in_another_is_removed(texts, tmp_path):
    lines = Path(texts["truth"]).read_text("utf-8").splitlines()
    copy = tmp_path / "copy.txt"
    copy.write_text("\n".join(lines[::-1][:150] + sentences(100, seed="x")))
    folder = load_corpus([texts["truth"] + "*2", str(copy)], tmp_path / "work")
    about = read_checked_json(folder / "corpus.json")
    train, valid = ({*text_lines(folder / f"{part}.txt")} for part in ("train", "valid"))
    assert not (train - {"\n", ""}) & valid and about["split"]["removed"] > 0


@pytest.mark.parametrize("copied", [0, 20, 90])  # of the 100 lines of valid_corpus
@pytest.mark.parametrize("order", [1, -1])
def test_all_removed_lines_of_a_mixture_are_counted(texts, tmp_path, copied, order):
    """Each line of a text is a training line, a validation line or removed."""
    lines = {name: [*text_lines(Path(path))] for name, path in texts.items()}
    spirit = lines["spirit"] + lines["beyond"][:copied] + lines["spirit"][:10]
    beyond = lines["spirit"][20:60] + lines["beyond"]
    Path(texts["spirit"]).write_text("\n".join(spirit))
    corpus = weighted(texts, truth=2, spirit=0.5)[::order]
    for valid_corpus, given in ((None, spirit), (texts["beyond"], spirit + beyond)):
        Path(texts["beyond"]).write_text("\n".join(beyond))
        folder = load_corpus(corpus, tmp_path / "work", valid_corpus=valid_corpus)
        split = read_checked_json(folder / "corpus.json")["split"]
        parts = split["train"] + split["valid"] + split["removed"]
        assert parts == len(given) + len(lines["truth"]) and split["removed"] > 0
        assert ("valid_corpus is the validation set" in split["rule"]) == (valid_corpus is not None)


def test_another_weight_is_another_corpus(texts, tmp_path):
    """So a run is not resumed with it."""
    sums = set()
    for weight in (2, 3):
        folder = load_corpus(weighted(texts, truth=1, spirit=weight), tmp_path)
        sums.add(read_checked_json(folder / "corpus.json")["sha256"])
    assert len(sums) == 2


def test_lines_and_documents_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("\na\nb\n\n \nc\n\n")
    assert count_units(tmp_path / "a.txt") == (3, 2)


# examples and epochs


@pytest.fixture
def mixed(texts, tmp_path, tokenizer):
    """A function: weights of the texts -> their MaskedLMDataset."""

    def make(examples="line", max_len=64, **weights):
        folder = load_corpus(weighted(texts, **weights), tmp_path / "work")
        mixture = read_checked_json(folder / "corpus.json")["mixture"]
        return MaskedLMDataset(folder / "train.txt", tokenizer, max_len, examples, mixture)

    return make


@pytest.mark.parametrize("examples", ["line", "block"])
def test_an_epoch_has_each_source_as_often_as_its_weight_says(mixed, tokenizer, examples):
    weights = {"truth": 0.3, "spirit": 2, "beyond": 1.5}
    data = mixed(examples, **weights)
    single = mixed(examples, truth=1, spirit=1, beyond=1.0001)
    boundaries = np.cumsum(single.epochs.per_source)
    first_tokens = single.starts[boundaries[:-1]]
    for epoch in range(3):
        indices = data.epochs.of_epoch(seed=5, epoch=epoch)
        assert len(indices) == len(data.epochs) == len(np.unique(indices))
        source = np.searchsorted(first_tokens, data.starts[indices], side="right")
        counts = np.bincount(source, minlength=3)
        assert counts.tolist() == data.epochs.per_source.tolist()
        expected = np.diff(boundaries, prepend=0) * [*weights.values()]
        assert np.abs(counts - expected).max() <= 0.5
        if examples == "line":
            first_words = [
                {int(data[i][1]) for i in indices[source == number]} for number in range(3)
            ]
            texts = ["truth", "spirit", "beyond"]
            assert first_words == [{tokenizer(text)["input_ids"][1]} for text in texts]
    # with weight 2, each example occurs twice; with 1.5, once or twice
    times = np.bincount(data.epochs.examples[indices])
    spirit = times[boundaries[0] : boundaries[1]]
    beyond = times[boundaries[1] : boundaries[2]]
    assert {*spirit} == {2} and {*beyond} == {1, 2}


def test_what_is_drawn_is_a_pure_function_of_seed_and_epoch(mixed):
    data = mixed(truth=0.5, spirit=1)
    draws = [data.epochs.of_epoch(*key).tolist() for key in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert draws[0] == draws[3] and draws[0] != draws[1] != draws[2] != draws[0]
    drawn = np.concatenate([data.epochs.of_epoch(0, epoch) for epoch in range(30)])
    assert len(np.unique(drawn)) == len(data)  # in the long run, all are drawn


def test_a_small_source_is_drawn_at_least_once(mixed):
    data = mixed(truth=1, beyond=0.001)
    assert data.epochs.per_source.tolist()[1] == 1


def test_without_weights_nothing_changes(corpus_folder, tokenizer):
    data = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
    assert data.epochs.of_epoch(3, 7).tolist() == list(range(len(data)))


def test_each_batch_of_an_epoch_is_planned_once(mixed):
    data = mixed(truth=0.3, spirit=2, beyond=1.5)
    plan = PackingPlan(data, 8, 0.15, seed=1, epochs=range(4), world_size=2)
    for epoch in range(4):
        found = np.concatenate([indices for _, indices, _ in plan.keys(epoch)])
        assert np.sort(found).tolist() == data.epochs.of_epoch(1, epoch).tolist()
        shapes = {
            tuple(batch["input_ids"].shape)
            for batch in MaskedBatches(data, plan.keys(epoch), 0.15, seed=1, shape=plan.shape)
        }
        assert len(shapes) == 1


def test_repeated_examples_have_different_masks(mixed):
    data = mixed(truth=1, spirit=2)
    example = data.epochs.examples
    repeated = np.flatnonzero(np.isin(example, example[len(np.unique(example)) :]))
    (batch,) = MaskedBatches(data, [(0, repeated)], 0.15, seed=1)
    labels = batch["labels"].numpy()
    half = len(repeated) // 2
    assert (data.starts[repeated[:half]] == data.starts[repeated[half:]]).all()
    assert (labels[:half] != labels[half:]).any(axis=1).mean() > 0.9


def test_a_resumed_run_gets_the_same_batches(mixed):
    data = mixed(truth=0.3, spirit=2, beyond=1.5)
    module = MaskedLMData(data, data, 8, 0.15, seed=1, total_steps=200)
    batches = [*module.train_batches()]
    assert len(batches) == 200 > 2 * -(-len(data.epochs) // 8)
    for start in (1, 57, 199):
        for one, other in zip(batches[start:], module.train_batches(start), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert len([*TrainingOrder(PackingPlan(data, 8, 0.15, 1, range(1)), 0, 5)]) == 5


@pytest.mark.fault
def test_blocks_across_corpora_are_refused(mixed):
    with refused("examples must be", "'stream'".replace("'", '"'), 'examples="block"'):
        mixed("stream", truth=2, spirit=1)


def test_no_folder_and_no_password_of_a_mixture_is_stored(texts, tmp_path, monkeypatch):
    url = "https://eve:s3cret@example.org/truth.txt?key=t0ken"
    monkeypatch.setattr(
        "mlm.data.corpus.fetch_corpus",
        lambda text, *_: [Path(texts["truth"] if text == url else text)],
    )
    folder = load_corpus([f"{url}*2", texts["spirit"]], tmp_path / "work")
    stored = (folder / "corpus.json").read_text()
    for secret in ("eve", "s3cret", "t0ken", str(tmp_path)):
        assert secret not in stored
    source = read_checked_json(folder / "corpus.json")["source"]
    assert source == ["https://example.org/truth.txt*2", "spirit.txt*1"]
