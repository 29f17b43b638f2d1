"""Passages of Python's manual with their classes."""

from mlm.data.labelled import check_classes, text_key
from mlm.data.python_topics import MAX_LINES, MIN_LINES, PAGES, passages, python_topics


def test_there_are_enough_passages_of_each_class():
    counts = python_topics()["label"].value_counts()
    assert {*counts.index} == {*PAGES} and 4 <= len(counts) <= 8
    assert counts.min() > 150  # 128 for training, the others for the test
    check_classes(python_topics()["label"], name="pydoc", advice="")


def test_passages_are_short_and_no_text_has_two_classes():
    texts = python_topics()
    num_lines = texts["text"].str.split("\n").map(len)
    assert num_lines.between(MIN_LINES, MAX_LINES).all()
    assert texts["label"].groupby(texts["text"].map(text_key)).nunique().max() == 1


def test_a_page_belongs_to_one_class():
    pages = " ".join(PAGES.values()).split()
    assert len(pages) == len({*pages})


def test_headings_which_name_the_class_are_dropped():
    text = 'The "for" statement\n*******************\none\ntwo\n  Sub\n  ====\nthree'
    assert passages(text) == ["one\ntwo\nthree"]
    assert passages('The "for" statement\n*******************') == []
    assert passages("1\n2\n3\n4\n5") == ["1\n2\n3\n4"]  # the rest has one line
