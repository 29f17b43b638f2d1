"""The table of loggers: which values are valid, and what is checked before training."""

import pytest

from helpers import refused
from mlm.env import trackers
from mlm.env.loggers import LOGGERS, is_logger, logger_names
from mlm.env.trackers import OPEN, check_loggers

VALID = [*LOGGERS, "none", ["csv"], ["wandb", "mlflow"]]
INVALID = ["", "tensor", [], ["none", "csv"], ["csv", "csv"], ["csv", 1], None, "csv,wandb"]


@pytest.mark.parametrize("value", VALID)
def test_a_valid_logger(value):
    assert is_logger(value)
    assert set(logger_names(value)) <= LOGGERS.keys()


@pytest.mark.parametrize("value", INVALID)
def test_an_invalid_logger(value):
    assert not is_logger(value)


def test_every_logger_can_be_opened():
    assert OPEN.keys() == LOGGERS.keys()


@pytest.mark.fault
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_package_is_one_line_with_its_command(name, monkeypatch):
    monkeypatch.setattr(trackers, "installed_version", lambda package: None)
    with refused(f"logger='{name}'", f"pip install {LOGGERS[name].package}"):
        check_loggers([name])


@pytest.mark.fault
@pytest.mark.parametrize(
    "name, variable", [("mlflow", "MLFLOW_TRACKING_URI"), ("trackio", "TRACKIO_SERVER_URL")]
)
def test_a_server_that_does_not_answer_is_one_line(name, variable, monkeypatch):
    monkeypatch.setenv(variable, "http://me:password@127.0.0.1:9/?write_token=123456")
    monkeypatch.setattr(trackers, "installed_version", lambda package: "1.0")
    with refused(f"logger='{name}'", "http://127.0.0.1:9", "cannot be reached", variable) as line:
        check_loggers(name)
    assert "password" not in line() and "123456" not in line()


def test_local_stores_need_no_server(monkeypatch):
    monkeypatch.setattr(trackers, "installed_version", lambda package: "1.0")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for variable in ("MLFLOW_TRACKING_URI", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(variable, raising=False)
    check_loggers(list(LOGGERS))


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    """W&B on a machine without any login, and with a server that does not exist."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.mark.fault
def test_wandb_without_a_login_is_one_line(no_login):
    with refused("not logged in", "wandb login", "WANDB_MODE=offline"):
        check_loggers("wandb")


@pytest.mark.fault
def test_an_error_of_wandb_without_words_is_named(no_login, monkeypatch):
    import wandb

    def login(prompt=None):
        raise TimeoutError

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(trackers, "check_server", lambda *_: None)
    with refused("the login is not valid (TimeoutError)"):
        check_loggers("wandb")


@pytest.mark.fault
def test_wandb_without_a_network_is_one_line(no_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    with refused("http://127.0.0.1:9 cannot be reached", "WANDB_MODE=offline"):
        check_loggers("wandb")
