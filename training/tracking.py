"""Runs and evaluations in MLflow."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from naturaltone.pipeline.errors import UserError, first_line

EXPERIMENT = "naturaltone"
# MLflow's client tries seven times, for about four minutes in all.
_TRIES_AGAIN, _ANSWER_SECONDS = 2, 6

_LOST_CONNECTION = re.compile(r"Caused by \w+\((.*)\)\)$")

log = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its errors go to our log file, not to the terminal
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a script reads our stdout


class TrackingError(UserError):
    """The tracking server, a run or a registered model cannot be used as asked."""


def reason(error: BaseException) -> str:
    """What went wrong in a call of MLflow. Of a lost connection, only the system's own words."""
    line = first_line(error)
    lost = _LOST_CONNECTION.search(line)
    return lost[1].rpartition(": ")[2].strip("'\"") if lost else line


def give_up_soon() -> None:
    """Report a tracking server that is away within 30 s. For commands that can be given again at no loss."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_TRIES_AGAIN))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_ANSWER_SECONDS))


def create_experiment(*, artifacts: Path) -> None:
    """Create the experiment with its artifacts in the folder `artifacts` instead of the server's own folder."""
    import mlflow

    mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts.resolve().as_uri())


def tracking_uri() -> str:
    """The URI of this process's tracking server. Workers on other machines may not have it in their environment."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def start_run(*, run_name: str, params: dict[str, Any], tags: dict[str, str], dataset: str) -> str:
    """Open a run on the tracking server of `MLFLOW_TRACKING_URI`, or go on with the run of that name; return its id.

    dataset: the URI of the run's manifest. `TrackingError` if the server cannot be used or the run is on another store.
    """
    import mlflow

    with _reachable():
        experiment = mlflow.set_experiment(EXPERIMENT)
        found = mlflow.search_runs(
            [experiment.experiment_id],
            filter_string=f"attributes.run_name = '{run_name}'",
            max_results=1,
            output_format="list",
        )
        run = mlflow.start_run(run_id=found[0].info.run_id) if found else mlflow.start_run(run_name=run_name)
        with run:
            if not found:
                mlflow.log_params(params)
                mlflow.set_tags(tags | revision())
                mlflow.log_dict(params, "config.json")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # MLflow warns that it guesses the type of the URI
                    source = mlflow.data.dataset_source_registry.resolve_dataset_source(dataset)
                mlflow.log_input(mlflow.data.meta_dataset.MetaDataset(source, name="store"), context="training")
    known = run.data.tags.get("store", tags["store"])
    if found and known != tags["store"]:
        raise TrackingError(f"run '{run_name}' already exists on '{known}'; choose another --run")
    return str(run.info.run_id)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Turn what MLflow raises when its server fails into one line."""
    import mlflow

    try:
        yield
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(
            f"tracking at '{mlflow.get_tracking_uri()}' cannot be used ({reason(error)}); check MLFLOW_TRACKING_URI"
        ) from error


@contextlib.contextmanager
def running(run_id: str) -> Iterator[None]:
    """Show the run as running, then as finished, failed or killed. MLflow records the load of running runs only."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    with _reachable():
        client.update_run(run_id, status="RUNNING")
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        try:
            client.set_terminated(run_id, status)
        except Exception as error:  # the server is away, which does not harm the run itself
            log.warning("tracking: run %s could not be marked as %s (%s)", run_id, status, reason(error))


def revision() -> dict[str, str]:
    """A tag with the git revision of this code, if the code runs from its own checkout."""
    folder = Path(__file__).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}  # installed, maybe in a virtual environment within somebody else's checkout
    revision = _git(folder, "rev-parse", "HEAD")
    return {"git_revision": revision} if revision else {}


def _git(folder: Path, *arguments: str) -> str | None:
    asked = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def log_evaluation(run_id: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
    """Add measures and text files, by name, to a run in any state. `TrackingError` if the server does not have the run."""
    import mlflow
    from mlflow.entities import Metric as Entry
    from mlflow.tracking import MlflowClient

    refuse_absent_database()
    now = int(time.time() * 1000)
    try:
        client = MlflowClient()
        client.get_run(run_id)
        client.log_batch(run_id, metrics=[Entry(name, value, now, 0) for name, value in metrics.items()])
        for name, text in files.items():
            client.log_text(run_id, text, name)
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"tracking at '{mlflow.get_tracking_uri()}': {reason(error)}") from None


def refuse_absent_database() -> None:
    """`TrackingError` if the SQLite file does not exist. To open it would create it."""
    import mlflow

    if not database_exists(mlflow.get_tracking_uri()):
        raise TrackingError(f"there is no tracking at '{mlflow.get_tracking_uri()}'; check MLFLOW_TRACKING_URI")


def create_database() -> None:
    """Make the SQLite file of the tracking URI if it is new. Servers have a database already."""
    import mlflow
    from mlflow.tracking import MlflowClient

    if not database_exists(mlflow.get_tracking_uri()):
        with _reachable():
            MlflowClient().search_experiments(max_results=1)


def database_exists(tracking_uri: str) -> bool:
    scheme, _, path = tracking_uri.partition(":///")
    return scheme != "sqlite" or Path(path).exists()
