"""Loggers: every row of metrics.csv once in each tracker, also after a stop, a kill or a failing server."""

import json
import os
import sqlite3
from types import SimpleNamespace

import pandas as pd
import pytest

import mlm.env.trackers as trackers
import mlm.training.tracking as tracking
from helpers import refused
from mlm.env.loggers import LOGGERS, Tracker
from mlm.env.notebook import NotebookError
from mlm.env.trackers import OPEN
from mlm.training.failures import request_stop
from mlm.training.tracking import SentRows, shown_row
from small_runs import Patch


class Server:
    """A tracker's server that keeps all rows it gets; it refuses a row while `down`."""

    def __init__(self):
        self.rows, self.opened, self.finished, self.down = [], [], [], False

    def open(self, run):
        self.opened.append(run.run_id)
        run.run_id = run.run_id or "a new run"
        return SimpleNamespace(
            log_metrics=self.log, save=lambda: None, finalize=self.finished.append
        )

    def log(self, row, step):
        if self.down:
            raise ConnectionError("http://me:password@host/api?token=12345 is down")
        self.rows.append((step, row))


@pytest.fixture
def server(monkeypatch):
    """A Server that is the logger "server"."""
    server = Server()
    monkeypatch.setitem(LOGGERS, "server", Tracker("torch"))
    monkeypatch.setitem(OPEN, "server", server.open)
    return server


def rows_of(run):
    return [(row["step"], shown_row(row)) for row in run.history]


def stop_after(runs, workdir, step, logger):
    """Start a run with a logger and stop it after `step` + 1 steps."""

    def stop(now):
        if now == step:
            request_stop(workdir / "run")

    # Not `refused`: a tracker's first database may take longer than an error may.
    with Patch(runs, stop), pytest.raises(NotebookError, match=f"stopped at step {step + 1}"):
        runs.train_run(workdir, logger=logger)


# rows


def test_names_are_grouped_as_trackers_expect():
    row = {"step": 1, "train_loss": 2.0, "lr": 3.0, "tokens_per_second": 4.0, "gradient_norm": 5.0}
    assert shown_row(row | {"valid_perplexity": 6.0}) == {
        "train/loss": 2.0, "lr": 3.0, "tokens_per_second": 4.0, "gradient_norm": 5.0,
        "valid/perplexity": 6.0,
    }  # fmt: skip


def test_a_stopped_and_resumed_run_is_one_run_with_each_row_once(runs, server, tmp_path):
    stop_after(runs, tmp_path, 2, "server")
    run = runs.train_run(tmp_path, logger="server")
    assert server.opened == [None, "a new run"]
    assert server.rows == rows_of(run)
    assert server.finished == ["success", "success"]


def test_rows_after_the_checkpoint_of_a_killed_run_are_not_sent_twice(server, tmp_path):
    history = [{"step": step, "train_loss": float(step)} for step in range(1, 8)]
    (tmp_path / "logs").mkdir()
    killed = SentRows("server", tmp_path, {}, history[:1])
    killed.save()
    for row in history[1:5]:
        killed.log_metrics({"train_loss": row["train_loss"]}, row["step"])
    resumed = SentRows("server", tmp_path, {}, history[:3])  # the checkpoint is older
    resumed.save()
    for row in history[3:]:
        resumed.log_metrics({"train_loss": row["train_loss"]}, row["step"])
    assert [step for step, _ in server.rows] == [1, 2, 3, 4, 5, 6, 7]


def test_a_run_without_a_checkpoint_begins_a_new_run_in_the_tracker(server, tmp_path):
    (tmp_path / "logs").mkdir()
    for _ in range(2):
        logger = SentRows("server", tmp_path, {}, [])
        logger.save()
        logger.log_metrics({"valid_loss": 9.0}, 0)
    assert server.opened == [None, None]
    assert len(server.rows) == 2


def test_a_logger_that_is_added_later_gets_the_rows_before(runs, server, tmp_path):
    stop_after(runs, tmp_path, 4, "none")
    run = runs.train_run(tmp_path, logger=["tensorboard", "server"])
    assert server.rows == rows_of(run)


@pytest.mark.fault
def test_a_server_that_fails_during_training_gets_its_rows_later(server, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    logger = SentRows("server", tmp_path, {}, [])
    logger.save()
    for step in range(6):
        server.down = 2 <= step < 4
        logger.log_metrics({"train_loss": 1.0}, step)
    logger.finalize("success")
    assert [step for step, _ in server.rows] == [0, 1, 2, 3, 4, 5]
    printed = capsys.readouterr().out
    assert printed.count("server does not respond") == 1
    assert "password" not in printed and "12345" not in printed


@pytest.mark.fault
def test_rows_that_a_server_never_took_are_reported(server, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    logger = SentRows("server", tmp_path, {}, [])
    logger.save()
    server.down = True
    logger.log_metrics({"train_loss": 1.0}, 1)
    logger.finalize("success")
    assert "server lacks the last 1 rows of metrics.csv" in capsys.readouterr().out


@pytest.mark.fault
def test_a_tracker_that_cannot_be_opened_is_one_line_before_training(
    runs, server, tmp_path, monkeypatch
):
    def fail(run):
        raise RuntimeError("permission denied for key http://u:secret@host\nmore")

    monkeypatch.setitem(LOGGERS, "server", Tracker("torch"))
    monkeypatch.setitem(OPEN, "server", fail)
    with refused("logger='server' does not work", "permission denied", "tensorboard") as line:
        runs.train_run(tmp_path, logger="server")
    assert "secret" not in line()
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_only_the_main_process_opens_a_logger(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.rank_zero_only, "rank", 1)
    logger = SentRows("server", tmp_path, {}, [])
    logger.save()
    logger.log_metrics({"train_loss": 1.0}, 1)
    logger.finalize("success")
    assert server.opened == [] and list(tmp_path.iterdir()) == []


# the real ones


def check_curves(run, read):
    """Compare the curves that `read(name)` returns, as [(step, value)], with metrics.csv."""
    table = pd.read_csv(run.folder / "logs/metrics.csv", index_col="step")
    for name in ("train_loss", "valid_loss", "valid_perplexity", "valid_accuracy", "lr"):
        (shown,) = shown_row({name: 0})
        expected = table[name].dropna()
        found = read(shown)
        assert [step for step, _ in found] == expected.index.tolist(), name
        assert [value for _, value in found] == pytest.approx(expected.tolist(), rel=1e-6), name


def test_csv_of_a_resumed_run(runs, tmp_path):
    stop_after(runs, tmp_path, 4, "csv")
    run = runs.train_run(tmp_path, logger="csv")
    table = pd.read_csv(
        run.folder / "logs/csv/metrics.csv", index_col="step", float_precision="round_trip"
    )
    assert [(step, row.dropna().to_dict()) for step, row in table.iterrows()] == rows_of(run)
    assert not (run.folder / "logs/tensorboard").exists()


def test_mlflow_has_the_curves_of_a_resumed_run(runs, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stop_after(runs, tmp_path, 4, "mlflow")
    run = runs.train_run(tmp_path, logger="mlflow")
    client = MlflowClient(trackers.mlflow_address(tmp_path))
    experiment = client.get_experiment_by_name(trackers.PROJECT)
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED" and tracked.info.run_name == "run"
    assert tracked.data.params["lr"] == str(run.settings["lr"])
    check_curves(run, lambda name: sorted(
        (m.step, m.value) for m in client.get_metric_history(tracked.info.run_id, name)
    ))  # fmt: skip


def test_trackio_has_the_curves_of_a_resumed_run(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed: pip install trackio")
    stop_after(runs, tmp_path, 4, "trackio")
    run = runs.train_run(tmp_path, logger="trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by id")
        rows = [(name, step, json.loads(metrics)) for name, step, metrics in rows]
    assert len({name for name, *_ in rows}) == 1
    check_curves(run, lambda name: [(step, row[name]) for _, step, row in rows if name in row])


def test_wandb_offline_has_the_curves_of_a_resumed_run(runs, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    stop_after(runs, tmp_path, 4, "wandb")
    run = runs.train_run(tmp_path, logger="wandb")
    rows, run_ids = wandb_rows(run.folder / "logs" / "wandb")
    assert len(run_ids) == 1
    check_curves(
        run, lambda name: [(row["trainer/global_step"], row[name]) for row in rows if name in row]
    )


def wandb_rows(folder):
    """(rows, ids of runs) in the offline files of W&B below a folder, oldest first."""
    from wandb.proto import wandb_internal_pb2

    rows, run_ids = [], set()
    for path in sorted(folder.glob("offline-run-*/*.wandb"), key=os.path.getmtime):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
            if record.WhichOneof("record_type") == "run":
                run_ids.add(record.run.run_id)
    return rows, run_ids


def leveldb_records(content):
    """The records of a file in LevelDB's log format, which W&B uses with a header of its own."""
    position, parts = 7, []
    while position + 7 <= len(content):
        left = 32768 - position % 32768  # of this block; a record's header never crosses its end
        if left < 7:
            position += left
            continue
        length, kind = (
            int.from_bytes(content[position + 4 : position + 6], "little"),
            content[position + 6],
        )
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield b"".join(parts)
            parts = []
