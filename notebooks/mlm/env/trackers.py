"""Opens the loggers that 04 can send its metrics to: TensorBoard, Weights & Biases, MLflow, Trackio.

Nothing is imported before it is used: a tracker needs its own package.
"""

import contextlib
import inspect
import io
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm.env.loggers import LOGGERS, logger_names
from mlm.env.network import SECONDS, connection_error
from mlm.env.notebook import NotebookError, installed_version
from mlm.env.secrets import hide_secrets, without_secrets

PROJECT = "bert-mlm"  # the project or experiment of all runs in a tracker


@dataclass
class TrackedRun:
    """A run as its tracker sees it. `run_id` is None until the tracker has it.

    `folder` is the run's folder. The tracker has the first `rows` rows of the history; `next_step` is
    the first step that it does not have.
    """

    folder: Path
    settings: dict[str, Any]
    run_id: str | None = None
    rows: int = 0
    next_step: int = 0

    @property
    def logs(self) -> Path:
        """The folder for local files of this run."""
        return self.folder / "logs"

    @property
    def workdir(self) -> Path:
        """The folder for local files of all runs."""
        return self.folder.parent


# opening: each function returns a Lightning logger, sets `run_id` and prints where the curves are


def open_tensorboard(run: TrackedRun) -> Any:
    """TensorBoard's log. What it has from `next_step` on is no longer shown."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(run.logs, "", "tensorboard", purge_step=run.next_step)


def open_csv(run: TrackedRun) -> Any:
    """Lightning's CSV file, written anew: it cannot be continued."""
    from pytorch_lightning.loggers import CSVLogger

    shutil.rmtree(run.logs / "csv", ignore_errors=True)
    run.rows = 0
    return CSVLogger(run.logs, "csv", "", flush_logs_every_n_steps=1)


def open_wandb(run: TrackedRun) -> Any:
    """A run of Weights & Biases; offline, its files are below logs/."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    class WandbRun(WandbLogger):
        """A run that ends with training, so that the next run of this kernel is another one."""

        def finalize(self, status: str) -> None:
            wandb.finish(exit_code=int(status != "success"))

    run.run_id = run.run_id or uuid.uuid4().hex[:8]
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, init_timeout=6 * SECONDS
    )
    opened = wandb.init(  # not by Lightning, whose argument `anonymous` makes W&B warn
        project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.folder.name, dir=str(run.logs),
        id=run.run_id, resume="allow", settings=settings,
    )  # fmt: skip
    opened.define_metric("trainer/global_step")
    opened.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    logger = WandbRun(experiment=opened)
    logger.log_hyperparams(run.settings)
    offline = f"offline: upload it with `wandb sync {Path(opened.dir).parent}`"
    print("wandb:", offline if opened.settings.mode != "online" else opened.url)
    return logger


def mlflow_address(workdir: Path) -> str:
    """MLflow's server or local file: MLFLOW_TRACKING_URI, by default a database in workdir."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir.resolve() / 'mlflow.db'}"


def open_mlflow(run: TrackedRun) -> Any:
    """A run of MLflow, on its server or in workdir."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the next row tries again
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
    from pytorch_lightning.loggers import MLFlowLogger

    for name in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):  # all that they create
        logging.getLogger(name).setLevel(logging.ERROR)
    address, is_new = mlflow_address(run.workdir), run.run_id is None
    files = (run.workdir / "mlruns").resolve().as_uri() if address.startswith("sqlite") else None
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), run.folder.name, address,
        artifact_location=files, run_id=run.run_id,
    )  # fmt: skip
    run.run_id = logger.run_id  # created by this line if it is new
    if is_new:
        logger.log_hyperparams(run.settings)
    else:
        logger.experiment.update_run(run.run_id, status="RUNNING")
    print(f"mlflow: to see the curves, `mlflow ui --backend-store-uri {without_secrets(address)}`")
    return logger


def open_trackio(run: TrackedRun) -> Any:
    """A run of Trackio, by default in workdir; TRACKIO_SPACE_ID and TRACKIO_SERVER_URL are respected."""
    folder = os.environ.setdefault("TRACKIO_DIR", str(run.workdir.resolve() / "trackio"))
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    import trackio
    from pytorch_lightning.loggers.logger import Logger

    class TrackioLogger(Logger):
        """Lightning has no logger for Trackio."""

        name = version = run.run_id = run.run_id or f"{run.folder.name}-{uuid.uuid4().hex[:8]}"

        def __init__(self) -> None:
            super().__init__()
            with contextlib.redirect_stdout(io.StringIO()):  # the line below says the same
                self.experiment = trackio.init(
                    project, self.name, config=run.settings, resume="allow", embed=False,
                    auto_log_gpu=False, auto_log_cpu=False,
                )  # fmt: skip

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            """They are the configuration of the run."""

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.experiment.log(metrics, step)

        def finalize(self, status: str) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                self.experiment.finish()

    logger = TrackioLogger()
    print(f"trackio: to see the curves, `TRACKIO_DIR={folder} trackio show --project {project}`")
    return logger


OPEN: dict[str, Callable[[TrackedRun], Any]] = {  # for each name of LOGGERS
    "tensorboard": open_tensorboard,
    "csv": open_csv,
    "wandb": open_wandb,
    "mlflow": open_mlflow,
    "trackio": open_trackio,
}

# checks before training

SERVERS = {"mlflow": "MLFLOW_TRACKING_URI", "trackio": "TRACKIO_SERVER_URL"}  # set to use a server


def check_server(name: str, url: str, otherwise: str) -> None:
    """Raise NotebookError if a server does not answer at all."""
    if error := connection_error(url):
        raise NotebookError(
            f"logger={name!r}: {without_secrets(url)} cannot be reached ({error}): check the network and "
            f"the address, or {otherwise}"
        )


def check_wandb() -> None:
    """Raise NotebookError if W&B is neither offline nor logged in, or cannot be reached."""
    if os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled"):
        return
    import wandb

    address = wandb.setup().settings.base_url
    offline = "set the environment variable WANDB_MODE=offline"
    try:
        if "prompt" in inspect.signature(wandb.login).parameters:
            logged_in = wandb.login(prompt=False)
        else:  # before 0.30
            logged_in = bool(wandb.api.api_key)
    except Exception as error:
        check_server("wandb", address, offline)
        reason = hide_secrets(str(error)).partition("\n")[0] or type(error).__name__
        raise NotebookError(
            f"logger='wandb': the login is not valid ({reason}): run "
            "`wandb login` in a terminal, or set the environment variable WANDB_MODE=offline"
        ) from None
    finally:
        wandb.teardown()  # its service must not be shared with processes that are forked later
    if not logged_in:
        raise NotebookError(
            "logger='wandb': this machine is not logged in to W&B: run `wandb login` in a terminal, set "
            "the environment variable WANDB_API_KEY, or WANDB_MODE=offline to upload later"
        )
    check_server("wandb", address, offline)


def check_loggers(logger: str | list[str]) -> None:
    """Raise NotebookError if a logger's package is missing, or its server needs a login or is not there."""
    for name in logger_names(logger):
        package = LOGGERS[name].package
        if installed_version(package) is None:
            raise NotebookError(
                f"logger={name!r}: the package {package} is not installed: run `pip install {package}`, "
                "then this cell again"
            )
        if name == "wandb":
            check_wandb()
        variable = SERVERS.get(name, "")
        address = os.environ.get(variable, "")
        if address.startswith(("http://", "https://")):
            check_server(name, address, f"unset {variable} to log to a file in workdir")
