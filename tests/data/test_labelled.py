"""Labelled texts: all formats give the same table, bad ones a clear line, and no test text is known before."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import refused
from mlm.data.labelled import (
    MIN_NEW_TEXTS,
    check_overlap,
    choose_test,
    describe_test,
    is_new,
    label_sizes,
    load_labelled,
    sample_per_class,
)

ROWS = [
    (f"{word} number {i}", label) for i in range(6) for word, label in (("good", "1"), ("bad", "0"))
]


def write_csv(path, rows, header=("text", "label")):
    pd.DataFrame(rows, columns=header).to_csv(path, index=False)
    return str(path)


def write_folders(folder, rows):
    for number, (text, label) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:03}.txt").write_text(text)
    return str(folder)


# read


@pytest.mark.parametrize(
    "form", ["csv", "jsonl", "parquet", "float.parquet", "decimal.parquet", "folders"]
)
def test_every_format_gives_the_same_texts_and_classes(tmp_path, form):
    table, path = pd.DataFrame(ROWS, columns=["text", "label"]), tmp_path / f"rows.{form}"
    if form == "csv":
        table.to_csv(path, index=False)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"label": int(c), "text": t}) for t, c in ROWS))
    elif form == "folders":
        write_folders(path, ROWS)
    else:
        kind = {"float.parquet": float, "decimal.parquet": Decimal}.get(form, int)
        table["label"] = table["label"].map(kind)
        table.to_parquet(path)
    loaded = load_labelled(str(path))
    assert sorted(loaded.itertuples(index=False, name=None)) == sorted(ROWS)


def test_columns_have_any_name(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS, ("review", "stars"))
    assert len(load_labelled(path, "review", "stars")) == len(ROWS)


def test_texts_of_several_lines_keep_their_lines(tmp_path):
    path = write_csv(tmp_path / "a.csv", [(f"{text}\nand more", label) for text, label in ROWS])
    assert load_labelled(path)["text"].str.endswith("\nand more").all()


@pytest.mark.parametrize("form", ["table", "folders"])
def test_labels_that_look_the_same_are_one_class(tmp_path, form):
    """Composed and decomposed letters, and different spaces."""
    same = ["caf\u00e9 noir", "cafe\u0301 noir", "caf\u00e9\u00a0 noir"]
    rows = [(text, same[n % 3] if label == "1" else label) for n, (text, label) in enumerate(ROWS)]
    make = {"table": write_csv, "folders": write_folders}[form]
    assert {*load_labelled(make(tmp_path / "a.csv", rows))["label"]} == {"0", "caf\u00e9 noir"}


def test_the_words_none_and_na_are_classes(tmp_path):
    rows = [(text, {"0": "NA", "1": "None"}[label]) for text, label in ROWS]
    assert {*load_labelled(write_csv(tmp_path / "a.csv", rows))["label"]} == {"NA", "None"}


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, capsys):
    more = [("GOOD  number 0", "1"), ("two", "1"), ("Two ", "0"), ("no label", ""), ("  ", "1")]
    loaded = load_labelled(write_csv(tmp_path / "a.csv", ROWS + more))
    assert sorted(loaded.itertuples(index=False, name=None)) == sorted(ROWS)
    printed = capsys.readouterr().out
    for words in ("1 without a label", "1 empty", "2 with several labels", "1 repeated"):
        assert words in printed


def test_hidden_files_and_what_macos_adds_are_no_texts(tmp_path):
    folder = write_folders(tmp_path / "rows", ROWS)
    for name in ("1/._000.txt", "1/.ipynb_checkpoints/a.txt", ".git/a.txt", "__MACOSX/1/._0.txt"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_bytes(b"\0\5")
    assert len(load_labelled(folder)) == len(ROWS)


@pytest.mark.parametrize("form", ["table", "folders"])
def test_texts_in_another_encoding_are_read_with_it(tmp_path, form):
    rows = [(f"café {text}", label) for text, label in ROWS]
    if form == "table":
        path = tmp_path / "a.csv"
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False, encoding="cp1252")
    else:
        path = tmp_path / "rows"
        for file in map(Path, sorted(Path(write_folders(path, rows)).rglob("*.txt"))):
            file.write_bytes(file.read_text().encode("cp1252"))
    assert {*load_labelled(str(path), encoding="cp1252")["text"]} == {text for text, _ in rows}
    with refused("labelled=", "is not UTF-8 text", 'pass encoding="cp1252"', "or convert it"):
        load_labelled(str(path))


# bad input


def test_a_missing_file(tmp_path):
    with refused("labelled=", "nowhere.csv", "does not exist", "folder of texts for each class"):
        load_labelled(str(tmp_path / "nowhere.csv"))


def test_a_missing_column_is_named_by_its_parameter(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS, ("text", "stars"))
    with refused("no column 'label'", "pass label_column=", "stars"):
        load_labelled(path)
    with refused("no column 'review'", "pass column=", "stars"):
        load_labelled(path, "review", "stars")
    with refused("column and label_column are both 'text'"):
        load_labelled(path, "text", "text")


def numbered(labels):
    return [(f"text {number}", label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels, words",
    [
        (["a"] * 9, ["at least 2 classes", "found 1 ('a')"]),
        ([""] * 9, ["at least 2 classes", "no text that can be used", "9 without a label"]),
        (["a"] * 9 + ["b"], ["at least 2 different texts", "'b' has 1"]),
        ([n / 7 for n in range(90)], ["numbers such as", "not classes"]),
        ([f"{n % 30}.5" for n in range(90)], ["numbers such as", "not classes"]),
        ([f"id{n}" for n in range(90)], ["90 different labels for 90 texts", "too many"]),
        ([f"id{n % 201}" for n in range(900)], ["201 different labels", "at most 200"]),
    ],
)
@pytest.mark.fault
def test_labels_that_are_no_classes(tmp_path, labels, words):
    with refused("labelled=", *words):
        load_labelled(write_csv(tmp_path / "a.csv", numbered(labels)))


def test_why_no_text_is_left_is_said_in_the_error(tmp_path):
    """Not only printed above it: a text with several labels is no text without one."""
    rows = [("the same text", label) for label in "abc"] + [("another", label) for label in "ab"]
    with refused("found 0", "left out: 5 with several labels for the same text"):
        load_labelled(write_csv(tmp_path / "a.csv", rows))


def test_few_numbers_with_a_fraction_are_classes(tmp_path):
    labels = [("4.5", "3", "0.5")[n % 3] for n in range(30)]
    loaded = load_labelled(write_csv(tmp_path / "a.csv", numbered(labels)))
    assert {*loaded["label"]} == {"4.5", "3", "0.5"}


def test_labels_that_are_lists(tmp_path):
    rows = [{"text": text, "label": [label]} for text, label in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with refused("'label' is of type list, not a class"):
        load_labelled(str(tmp_path / "a.jsonl"))


def test_texts_that_are_numbers(tmp_path):
    rows = [{"text": number, "label": "a"} for number in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with refused("'text' is of type int, not text"):
        load_labelled(str(tmp_path / "a.jsonl"))


def test_plain_text_has_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with refused("a.txt", "plain text without labels"):
        load_labelled(str(tmp_path / "a.txt"))


def test_an_empty_table(tmp_path):
    (tmp_path / "a.csv").write_text(" \n")
    with refused("a.csv", "is empty"):
        load_labelled(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("form", ["table", "folders"])
def test_a_wrong_encoding_is_doubted(tmp_path, capsys, form):
    russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая несчастлива по-своему"
    rows = [(f"{russian}: {text}", label) for text, label in ROWS]
    path = tmp_path / "rows"
    if form == "table":
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False, encoding="koi8-r")
    else:
        for file in map(Path, sorted(Path(write_folders(path, rows)).rglob("*.txt"))):
            file.write_bytes(file.read_text().encode("koi8-r"))
    load_labelled(str(path), encoding="koi8-r")
    assert "garbled" not in capsys.readouterr().out
    load_labelled(str(path), encoding="cp1251")
    assert "if that is garbled, pass encoding='koi8_r'" in capsys.readouterr().out


def test_a_table_in_another_encoding_is_not_empty(tmp_path):
    with refused("labelled=", "a.csv is not utf-16 text"):
        load_labelled(write_csv(tmp_path / "a.csv", ROWS), encoding="utf-16")


def test_folders_that_are_no_classes(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused("has no folders"):
        load_labelled(str(tmp_path / "empty"))
    for part in ("train", "test"):
        write_folders(tmp_path / "set" / part, ROWS)
    with refused("train", "parts of a data set", "pass one of them"):
        load_labelled(str(tmp_path / "set"))
    write_folders(tmp_path / "classes", ROWS)
    (tmp_path / "classes" / "2").mkdir()
    with refused("the folder '2' has no text files"):
        load_labelled(str(tmp_path / "classes"))


@pytest.mark.parametrize("layout", ["one file for each class", "a folder around the classes"])
def test_folders_in_another_layout_get_advice_for_folders(tmp_path, layout):
    """They have no label_column."""
    folder = tmp_path / "rows"
    if layout == "one file for each class":
        for label in "01":
            (folder / label).mkdir(parents=True)
            (folder / label / "all.txt").write_text("\n".join(t for t, c in ROWS if c == label))
    else:
        write_folders(folder / "data", ROWS)
    with refused("add texts", "one folder for each class", "each text in its own file") as message:
        load_labelled(str(folder))
    assert "label_column" not in message() and "..." not in message()


@pytest.mark.parametrize(
    "labelled", ["https://example.org/a.csv", "hf://datasets/a/b.csv", "hf:a/b:train"]
)
def test_labelled_texts_are_on_this_machine(labelled):
    with refused(f"labelled='{labelled}' is not on this machine: download it first"):
        load_labelled(labelled)


# split


@pytest.fixture
def labels():
    return pd.Series(["a"] * 50 + ["b"] * 20 + ["c"] * 2)


def test_a_text_is_new_if_none_of_its_lines_was_read(tmp_path):
    (tmp_path / "train.txt").write_text("A line  of the text\n\nanother\n")
    texts = pd.Series(["a line of the text", "new\n\n ANOTHER ", "new", "a line of\nthe text"])
    assert is_new(texts, tmp_path / "train.txt").tolist() == [False, False, True, True]


def test_the_test_part_is_a_fifth_of_each_class_and_depends_on_the_seed(labels):
    new = np.ones(len(labels), bool)
    test = choose_test(labels, new, 0)
    assert labels[test].value_counts().to_dict() == {"a": 10, "b": 4, "c": 1}
    assert {*labels[~test]} == {"a", "b", "c"}
    assert (test == choose_test(labels, new, 0)).all() and (
        test != choose_test(labels, new, 1)
    ).any()


def test_only_new_texts_are_tested_if_there_are_enough():
    labels = pd.Series(["a"] * 50 + ["b"] * 50)
    new = np.arange(100) % 50 < MIN_NEW_TEXTS + 1
    test = choose_test(labels, new, 0)
    assert test.sum() == 2 * (MIN_NEW_TEXTS + 1) and new[test].all()
    too_few = np.arange(100) < MIN_NEW_TEXTS  # none of class b
    assert choose_test(labels, too_few, 0).sum() == 20


@pytest.mark.parametrize("number, smallest", [(2, "100"), (20, "15"), (29, "10"), (30, None)])
def test_the_test_part_is_described_by_what_is_known(number, smallest):
    """Without the run's corpus nobody knows what the run trained on: it does not say "0 of"."""
    is_test, new = np.arange(100) < number, np.arange(100) > 0
    known, unknown = describe_test(is_test, new), describe_test(is_test, None)
    assert known.startswith(f"1 of the {number} test texts contain a line that the run trained on")
    assert unknown.startswith(f"{number} test texts; ") and "is not known" in unknown
    for text in (known, unknown):
        assert ("no difference below" in text) == (smallest is not None)
        assert smallest is None or f"no difference below {smallest} points" in text


def test_overlapping_parts_are_refused():
    check_overlap(pd.Series(["one", "two"]), pd.Series(["three"]))
    with refused("1 texts are in the training part and in the test part", "two"):
        check_overlap(pd.Series(["one", "TWO"]), pd.Series(["two ", "three"]))


def test_a_sample_has_the_same_number_of_each_class_or_all(labels):
    counts = labels[sample_per_class(labels, 8, 0)].value_counts().to_dict()
    assert counts == {"a": 8, "b": 8, "c": 2}
    assert len({*sample_per_class(labels, 50, 0)}) == len(labels)


def test_sample_sizes_that_no_class_reaches_are_left_out(labels):
    assert label_sizes(labels) == [8, 32]
    assert label_sizes(labels[-12:]) == [8] and label_sizes(labels[-5:]) == [3]


def test_if_all_texts_have_labels_the_samples_of_all_seeds_are_equal(labels, capsys):
    label_sizes(labels)
    assert "all seeds are equal" not in capsys.readouterr().out
    (size,) = label_sizes(labels[-12:])  # 10 of b, 2 of c
    assert "all seeds are equal" not in capsys.readouterr().out
    (size,) = label_sizes(labels[-10:])
    assert f"With {size} labels per class, all texts" in capsys.readouterr().out
    samples = [sorted(sample_per_class(labels[-10:], size, seed)) for seed in range(3)]
    assert samples[0] == samples[1] == samples[2]


@pytest.mark.parametrize("num_classes, sizes", [(50, [8, 32, 128]), (51, [8, 32]), (200, [8, 32])])
def test_with_many_classes_samples_are_bounded(num_classes, sizes, capsys):
    """Else 150 classes would be 19,200 labelled texts, for three seeds and each method."""
    labels = pd.Series([f"class {n % num_classes}" for n in range(130 * num_classes)])
    assert label_sizes(labels) == sizes
    printed = capsys.readouterr().out
    assert ("128 labels per class are left out" in printed) == (len(sizes) < 3)
    rare = pd.concat([labels[: 9 * num_classes], pd.Series(["frequent"] * 500)])
    assert label_sizes(rare) == [8, 32, 128]  # what counts is the number of texts
