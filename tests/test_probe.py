"""The probe: its features and its classifier by their definitions, on texts whose answer is known."""

import random

import numpy as np
import pytest
import torch

from conftest import sentences
from mlm.corpus import load_corpus
from mlm.files import read_record
from mlm.model import load_bert
from mlm.probe import TENTHS, bags, fit, lines_of, probe, sample, states, which_tenth
from mlm.tokens import learn_wordpiece


@pytest.mark.parametrize("count", [10, 99, 400, 730, 2000])
def test_where_the_lines_of_each_part_stand(tmp_path, count):
    """By the rule of `split_text`, which has written the parts."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(map(str, range(count))))
    folder = load_corpus(str(path), tmp_path)
    for part in ("train", "valid"):
        lines = (folder / f"{part}.txt").read_text().split()
        assert lines == [str(number) for number in lines_of(part, count)]


@pytest.mark.parametrize("most, expected", [(100, 100), (360, 360), (1000, 360)])
def test_lines_are_taken_evenly_from_the_whole_text(dataset, most, expected):
    places = lines_of("train", 400)
    numbers, tenths = sample(dataset, places, 400, most)
    assert len(set(numbers)) == len(numbers) == expected
    order = np.argsort(numbers)
    assert np.diff(numbers[order]).max() <= 4
    assert (tenths.numpy() == places[numbers] // 40).all()
    assert (np.diff(dataset.lengths[numbers]) >= 0).all()


def test_states_are_those_of_each_line_alone(bert, dataset):
    bert.eval()
    numbers, _ = sample(dataset, lines_of("train", 400), 400, 70)
    found = states(bert, dataset, numbers)
    for number, state in zip(numbers, found):
        with torch.no_grad():
            alone = bert(dataset[number][None], output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(state, alone[0].mean(0), rtol=1e-4, atol=1e-5)


def test_bags_by_hand():
    """Tokens 1 and 3 stand in one line of four, 2 in all, which says nothing; 7 in no line to learn from."""
    lines = [torch.tensor([9, *some, 9]) for some in ([1, 2], [2, 3, 3], [2], [2], [1, 3, 7])]
    bag, other = bags([lines, lines], [[0, 1, 2, 3], [4, 2]])
    assert bag.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert other[0].tolist() == pytest.approx([0.5**0.5, 0, 0.5**0.5])
    assert other[1].tolist() == [0, 0, 0]


def test_the_ridge_is_that_of_the_normal_equations():
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(60, 7, generator=chance)
    y = torch.randint(TENTHS, (60,), generator=chance)
    targets = torch.nn.functional.one_hot(y, TENTHS) - 1 / TENTHS
    expected = torch.linalg.solve(x.T @ x + 0.1 * 60 * torch.eye(7), x.T @ targets)
    torch.testing.assert_close(fit(x, y, 0.1), expected, rtol=1e-3, atol=1e-4)


def test_the_probe_finds_what_is_there_and_nothing_else():
    chance = torch.Generator().manual_seed(0)
    y, others = torch.randint(TENTHS, (2, 1000), generator=chance)
    directions = torch.randn(TENTHS, 40, generator=chance)

    def rows(labels, noise):
        return 5 + directions[labels] + noise * torch.randn(1000, 40, generator=chance)

    assert probe(rows(y, 0.3), y, rows(others, 0.3), others) > 0.99
    nothing = [torch.randn(1000, 40, generator=chance) for _ in range(2)]
    assert probe(nothing[0], y, nothing[1], others) == pytest.approx(1 / TENTHS, abs=0.04)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_text_whose_tenths_have_their_own_words(tmp_path, ordered):
    """They are told apart; not where the very same lines stand in disorder, or the probe would cheat."""
    lines = [f"word{chr(97 + n // 500)} {line[:20]}" for n, line in enumerate(sentences(5000))]
    if not ordered:
        random.Random(0).shuffle(lines)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    folder = load_corpus(str(path), tmp_path)
    tokenizer = learn_wordpiece(folder / "train.txt", vocab_size=400)
    bert = load_bert("scratch:tiny", tokenizer).eval()
    record = {"parameters": {"max_len": 32}, "data": read_record(folder / "corpus.json")}
    found = which_tenth({"a model": bert}, tokenizer, record, tmp_path)["right"]
    assert list(found.index) == ["always the same tenth", "the tokens, in no order", "a model"]
    if ordered:
        assert found["always the same tenth"] == 0.1
        assert found["the tokens, in no order"] > 0.99 and found["a model"] > 0.3
    else:
        assert found.max() < 0.2


def test_nothing_is_said_where_the_text_is_not_here(tmp_path, bert, capsys):
    record = {"parameters": {"max_len": 32}, "data": {"sha256": "0" * 64, "lines": 9000}}
    assert which_tenth({"a model": bert}, None, record, tmp_path) is None
    assert "text of this run is not here" in capsys.readouterr().out


def test_held_out_lines_of_another_text_have_no_tenth(corpus_folder, bert, tokenizer, capsys):
    about = read_record(corpus_folder / "corpus.json") | {"lines": 9000}
    record = {"parameters": {"max_len": 32, "valid_corpus": "exam.txt"}, "data": about}
    assert which_tenth({"a model": bert}, tokenizer, record, corpus_folder.parents[1]) is None
    assert "of another text" in capsys.readouterr().out


def test_a_text_of_few_lines(corpus_folder, bert, tokenizer, capsys):
    about = {"parameters": {"max_len": 32}, "data": read_record(corpus_folder / "corpus.json")}
    assert which_tenth({"a model": bert}, tokenizer, about, corpus_folder.parents[1]) is None
    assert "The text has 400 lines" in capsys.readouterr().out
