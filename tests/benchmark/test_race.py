"""A race of recipes is fair: the same start for all, only training counts as time, nothing is left behind."""

from dataclasses import replace

import pytest
import torch
from test_speed import DENSE, OURS, bench  # noqa: F401  (a fixture)

from mlm.benchmark.race import (
    Contender,
    best_of_search,
    contenders,
    dropout_of,
    race,
    recipe_of,
    seconds_table,
    seconds_to,
)

MODEL = "scratch:tiny"
RACERS = [
    Contender("tutorial", DENSE, recipe_of("tutorial", MODEL, 4), 1),
    Contender("suite", replace(OURS, dtype=torch.float32), recipe_of("fast", MODEL, 16), 4),
    Contender("Trainer", replace(DENSE, by="Trainer"), dict(learning_rate=1e-3), 2),
]


@pytest.fixture(scope="module")
def tracks(bench):  # noqa: F811
    before = [layer.p for layer in bench.bert.modules() if isinstance(layer, torch.nn.Dropout)]
    found = {racer.name: race(bench, racer) for racer in RACERS}
    after = [layer.p for layer in bench.bert.modules() if isinstance(layer, torch.nn.Dropout)]
    assert before == after and max(before) > 0
    return found


def test_all_start_from_the_same_loss_and_do_all_their_steps(bench, tracks):  # noqa: F811
    assert len({round(track["loss"].iloc[0], 4) for track in tracks.values()}) == 1
    for racer in RACERS:
        steps = tracks[racer.name]["step"].tolist()
        assert (steps[0], steps[-1]) == (0, racer.epochs * bench.steps(racer.rung))
        assert tracks[racer.name]["seconds"].is_monotonic_increasing


def test_what_learns_more_ends_lower_and_is_sooner_at_a_loss(tracks):
    ends = {name: track["loss"].iloc[-1] for name, track in tracks.items()}
    assert ends["suite"] < ends["tutorial"]
    assert seconds_to(tracks["suite"], ends["suite"]) > 0
    assert seconds_to(tracks["suite"], 100.0) == tracks["suite"]["seconds"].iloc[0]
    assert not seconds_to(tracks["tutorial"], ends["suite"]) > 0  # NaN: it never was there


def test_measuring_takes_no_seconds(bench, monkeypatch):  # noqa: F811
    """A held-out measurement that takes an hour leaves the seconds of training as they are."""
    now = [0.0]
    monkeypatch.setattr(bench, "clock", lambda: now[0])
    slow = lambda *_: now.__setitem__(0, now[0] + 3600) or dict(loss=1.0)  # noqa: E731
    monkeypatch.setattr("mlm.benchmark.race.evaluate", slow)
    assert race(bench, RACERS[0])["seconds"].max() == 0


def test_dropout_comes_back(bench):  # noqa: F811
    layers = [layer for layer in bench.bert.modules() if isinstance(layer, torch.nn.Dropout)]
    with dropout_of(bench.bert, 0.25):
        assert {layer.p for layer in layers} == {0.25}
    assert 0.25 not in {layer.p for layer in layers}


def test_the_table_has_the_best_of_the_search_and_who_was_never_there(bench, tracks):  # noqa: F811
    """On the diagonal a recipe's own time; nobody but itself reaches the lowest loss of all."""
    named = {
        "Trainer, lr 1": tracks["tutorial"],
        "Trainer, lr 2": tracks["Trainer"],
        "suite": tracks["suite"],
    }
    ends = {name: track["loss"].iloc[-1] for name, track in named.items()}
    kept = best_of_search(named)
    assert "suite" in kept and len(kept) == 2
    assert min(ends["Trainer, lr 1"], ends["Trainer, lr 2"]) in [ends[name] for name in kept]
    table = seconds_table(kept)
    assert all(table.iloc[i, i] > 0 for i in range(2))
    best = min(kept, key=ends.get)
    assert (
        table.loc[[row for row in table.index if row.endswith(f"where {best} ended")]]
        .count(axis=1)
        .item()
        == 1
    )


def test_everybody_starts():
    made = contenders(DENSE, replace(DENSE, by="Trainer"), OURS, MODEL, 4)
    assert len(made) == len({racer.name for racer in made}) == 8
    assert made[0].how["lr"] == 1e-5 and made[-1].how["mlm_probability"] == 0.3
