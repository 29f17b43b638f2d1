"""Suggested settings for every size of text."""

import pytest

from mlm.data.text_size import RESULTS, suggest_settings


@pytest.mark.parametrize("num_bytes", [0, 5e4, 5e4 + 1, 377_552, 2e6])
def test_a_text_gets_the_rows_of_its_size(num_bytes):
    note, table = suggest_settings(num_bytes)
    assert f"{num_bytes / 1000:,.0f} KB" in note.splitlines()[0]
    limit = min(r.max_bytes for r in RESULTS if r.max_bytes >= num_bytes)
    expected = [r for r in RESULTS if r.max_bytes == limit]
    columns = ["measured on", "validation loss", "unigram baseline", "accuracy", "training"]
    assert len(table) == len(expected) and list(table) == columns
    for result, (settings, row) in zip(expected, table.iterrows()):
        assert settings.endswith(f"epochs={result.epochs}") and result.model in settings
        assert row["measured on"] == result.text
        assert row["validation loss"].startswith(f"{result.valid_loss:.2f} (")
    footnote = note.splitlines()[1:]
    has_mark = any(cell.endswith("*") for cell in table["training"])
    assert [line[0] for line in footnote] == ["*"] * has_mark


def test_larger_texts_get_a_suggestion_that_was_not_measured():
    note, table = suggest_settings(2e6 + 1)
    assert "not measured" in note and table is None
