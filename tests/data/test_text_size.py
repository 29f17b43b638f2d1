"""Suggested settings for every size of text."""

import pytest

from mlm.data.text_size import RESULTS, suggest_settings


@pytest.mark.parametrize("num_bytes", [0, 5e4, 5e4 + 1, 377_552, 2e6])
def test_a_text_gets_the_rows_of_its_size(num_bytes):
    header, columns, *rows = suggest_settings(num_bytes).splitlines()
    assert f"{num_bytes / 1000:,.0f} KB" in header
    limit = min(r.max_bytes for r in RESULTS if r.max_bytes >= num_bytes)
    expected = [r for r in RESULTS if r.max_bytes == limit]
    for result, row in zip(expected, rows):
        for words in (f"epochs={result.epochs} ", result.model, f" {result.valid_loss:.2f} ("):
            assert words in row
        for name in (
            "measured on",
            "validation loss",
            "unigram baseline",
            "accuracy",
            "training",
        ):
            position = columns.index(name)  # columns are aligned
            assert row[position - 1] == " " and row[position] != " "
    footnote = rows[len(expected) :]
    has_mark = any(row.endswith("*") for row in rows[: len(expected)])
    assert [line[0] for line in footnote] == ["*"] * has_mark


def test_larger_texts_get_a_suggestion_that_was_not_measured():
    assert "not measured" in suggest_settings(2e6 + 1)
