"""The rows of metrics of a run: the best row, early stopping, the table, names of earlier versions."""

import pandas as pd
import pytest

from mlm.training.history import (
    history_table,
    out_of_patience,
    selected_row,
    with_current_names,
    write_metrics,
)


def history(*losses):
    """A history with a training loss and an evaluation at each step, from 0 on."""
    names = "train_loss", "valid_loss"
    return [{"step": step, name: loss} for step, loss in enumerate(losses) for name in names]


@pytest.mark.parametrize(
    "losses, best, last, patience",
    [
        ((5.0,), None, None, 0),
        ((5.0, 4.0), 1, 1, 0),
        ((5.0, 6.0), 1, 1, 0),  # the weights before training are not a result
        ((5.0, 4.0, 3.0), 2, 2, 0),
        ((5.0, 4.0, 4.0), 1, 2, 1),  # the first of equals is the best
        ((5.0, 4.0, 3.0, 3.5, 3.2), 2, 4, 2),
        ((5.0, 4.0, 4.5, 3.0, 3.5), 3, 4, 1),
    ],
)
def test_the_best_row_and_early_stopping(losses, best, last, patience):
    """`patience` is the largest patience that is used up; 0: none is."""
    rows = history(*losses)
    assert (selected_row(rows, "best") or {}).get("step") == best
    assert (selected_row(rows, "last") or {}).get("step") == last
    used_up = [patience for patience in range(6) if out_of_patience(rows, patience)]
    assert used_up == list(range(1, patience + 1))


def test_the_table_has_a_row_per_step_and_a_column_per_metric(tmp_path):
    rows = [{"step": 0, "valid_loss": 5.0}, {"step": 2, "train_loss": 4.0, "lr": 0.1}]
    rows.append({"step": 2, "valid_loss": 3.0})
    table = history_table(rows)
    assert table.loc[2].to_dict() == {"valid_loss": 3.0, "train_loss": 4.0, "lr": 0.1}
    write_metrics(tmp_path, rows)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "logs/metrics.csv", index_col="step"), table
    )


def test_metrics_of_earlier_versions_get_todays_names():
    old = [
        {"step": 0, "held_out_loss": 5.0, "held_out_perplexity": 148.4, "held_out_accuracy": 0.1},
        {"step": 2, "training_loss": 4.0, "lr": 0.1, "gradient_norm": 1.5},
    ]
    state = with_current_names({"history": old, "tokens": 7})
    assert state == {
        "history": [
            {"step": 0, "valid_loss": 5.0, "valid_perplexity": 148.4, "valid_accuracy": 0.1},
            {"step": 2, "train_loss": 4.0, "lr": 0.1, "gradient_norm": 1.5},
        ],
        "tokens": 7,
    }
    assert with_current_names(state) == state
