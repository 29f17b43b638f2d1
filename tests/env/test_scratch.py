"""What `model="scratch:NAME"` may name: a size, or a source of a configuration."""

import pytest

from mlm.env.names import public_name, stored_model
from mlm.env.scratch import PREFIX, SIZES, WIDTHS, is_scratch, scratch_size, scratch_source
from mlm.env.secrets import NO_URL, shown_value


def test_a_modern_layer_has_about_as_many_weights_as_berts():
    for name, (hidden, layers) in WIDTHS.items():
        bert, modern = SIZES[name], SIZES[f"modern-{name}"]
        assert (bert.hidden, bert.layers) == (modern.hidden, modern.layers) == (hidden, layers)
        weights = 2 * hidden * bert.feed_forward
        assert 3 * hidden * modern.feed_forward == pytest.approx(weights, rel=0.04)
        assert modern.feed_forward % 32 == 0


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_no_source(name):
    assert scratch_size(f"scratch:{name}") is SIZES[name] and is_scratch(f"scratch:{name}")
    assert scratch_source(f"scratch:{name}") is None
    assert scratch_size(name) is None and scratch_source(name) is None  # a name on the Hub


@pytest.mark.parametrize(
    "source",
    ["bert-base-uncased", "roberta-base", "you/name", "./folder", "../x", "~/x", "/a/b", "C:\\x"],
)
def test_names_and_paths_are_sources(source):
    assert is_scratch(f"scratch:{source}") and scratch_source(f"scratch:{source}") == source


@pytest.mark.fault
@pytest.mark.parametrize(
    "typo",
    ["", " ", " tiny", "Tiny", "tiny ", "tinny", "large", "modern", "modern-", "modern-huge", "modern_tiny",
     "moderntiny", "Modern-Tiny", "modern-bse", "scratch:tiny", "scratch:modern-tiny", "a\0b", "x" * 5000],
)  # fmt: skip
def test_typing_errors_are_no_sources(typo):
    assert not is_scratch(f"scratch:{typo}")


def test_a_folder_in_the_working_directory_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_scratch("scratch:large")
    (tmp_path / "large").mkdir()
    assert is_scratch("scratch:large")


def test_what_is_stored_names_the_folder_but_not_its_path(tmp_path, monkeypatch):
    folders = [tmp_path / name / "mine" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    first, second = (stored_model(f"scratch:{folder}") for folder in folders)
    assert first != second and str(tmp_path) not in first
    assert public_name(first) == public_name(f"scratch:{folders[0]}") == "scratch:mine"
    monkeypatch.chdir(tmp_path)
    assert stored_model("scratch:a/mine") == first == stored_model(first)
    for name in ("scratch:modern-tiny", "scratch:bert-base-uncased"):
        assert stored_model(name) == public_name(name) == name
    assert stored_model("scratch:you/name") == "scratch:you/name"
    assert shown_value("scratch:/a/b#c?d") == "scratch:/a/b#c?d"  # no URL


def test_the_prefix_is_not_taken_for_the_scheme_of_a_url():
    assert PREFIX.removesuffix(":") in NO_URL
