"""Letters and words of a text, counted in bounded memory."""

from mlm.data import word_counts
from mlm.data.word_counts import count_text, take_evenly


def test_words_are_counted_as_written_and_split_at_marks_and_zero_width_spaces():
    counts = count_text(lambda: ["The cat,the\u200bcat", "ca\u00adt 中国 क्‍ष"])
    assert counts.words == {"The": 1, "cat": 3, ",": 1, "the": 1, "中": 1, "国": 1, "क्‍ष": 1}


def test_letters_are_composed():
    assert count_text(lambda: ["e\u0301a", "e"]).letters == {"é", "a", "e"}


def test_a_sample_has_lines_from_everywhere_and_the_wanted_size():
    lines = [f"{number:04}" if number % 2 else "" for number in range(4000)]
    taken = [*take_evenly(lines, 8000, 2000)]
    assert 1900 <= sum(map(len, taken)) <= 2100
    numbers = [int(line) for line in taken if line]
    assert max(b - a for a, b in zip([0, *numbers], [*numbers, 4000])) <= 20
    assert [*take_evenly(lines, 8000, 8000)] == lines


def test_all_letters_of_a_long_text_are_found_and_its_words_in_a_sample(monkeypatch):
    monkeypatch.setattr(word_counts, "SAMPLE_CHARS", 100)
    counts = count_text(lambda: [f"word{number} z" for number in range(100)] + ["q"])
    assert "q" in counts.letters and 5 < len(counts.words) < 50
