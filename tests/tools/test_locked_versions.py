"""requirements.lock has the packages of all extras that are asked for."""

import lock


def test_an_extra_that_is_asked_for_later_counts(monkeypatch):
    needs = {"a": ["b; extra == 'x'"], "b": [], "c": ["a[x]"]}
    monkeypatch.setattr(lock, "requires", needs.get)
    monkeypatch.setattr(lock, "version", lambda name: "1.0")
    for lines in (["a", "c"], ["c", "a"], ["c"]):
        assert lock.locked_versions(lines) == {name: "1.0" for name in "abc"}
    assert lock.locked_versions(["a"]) == {"a": "1.0"}
