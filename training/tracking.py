"""Runs, metrics, images and the model registry; with the script in serving/pyfunc.py the only file that imports MLflow."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naturaltone.pipeline.errors import UserError

Metric = tuple[str, float, int, int]  # name, value, milliseconds, step

MODEL_NAME = "naturaltone"
EXPERIMENT = "naturaltone"
CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_URI = f"models:/{MODEL_NAME}@{CHAMPION}"
BUNDLE_ARTIFACT = "bundle"

_FLUSH_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0  # for a server that is away when a run ends
_FINAL_ERRORS = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_MOST_METRICS = 1000  # that a server takes at once
# Said, not inferred: MLflow would import the model in a process of its own to find out.
_REQUIREMENTS = ["naturaltone", "torch", "safetensors", "numpy", "opencv-python-headless", "pillow"]

log = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


class TrackingError(UserError):
    """The tracking server or a registered model is not there as asked."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version in the registry."""

    uri: str
    version: str


def create_experiment(*, artifacts: Path) -> None:
    """Make the experiment with its artifacts in the folder `artifacts`, instead of where the server puts them."""
    import mlflow

    mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts.resolve().as_uri())


def tracking_uri() -> str:
    """The tracking server of this process; workers elsewhere need not have it in their environment."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def start_run(*, run_name: str, params: dict[str, Any], tags: dict[str, str], dataset: str) -> str:
    """Open a run on the tracking server of `MLFLOW_TRACKING_URI`, or go on with the one of that name; returns its id.

    dataset: the URI of what it is trained on. `TrackingError` if the one of that name is on another store.
    """
    import mlflow

    try:
        experiment = mlflow.set_experiment(EXPERIMENT)
        found = mlflow.search_runs(
            [experiment.experiment_id],
            filter_string=f"attributes.run_name = '{run_name}'",
            max_results=1,
            output_format="list",
        )
        run = mlflow.start_run(run_id=found[0].info.run_id) if found else mlflow.start_run(run_name=run_name)
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(
            f"tracking at '{mlflow.get_tracking_uri()}' cannot be used ({_first_line(error)}); check MLFLOW_TRACKING_URI"
        ) from None
    with run:
        if not found:
            mlflow.log_params(params)
            mlflow.set_tags(tags | _revision())
            mlflow.log_dict(params, "config.json")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it guesses what kind of place this is
                source = mlflow.data.dataset_source_registry.resolve_dataset_source(dataset)
            mlflow.log_input(mlflow.data.meta_dataset.MetaDataset(source, name="store"), context="training")
    known = run.data.tags.get("store", tags["store"])
    if found and known != tags["store"]:
        raise TrackingError(f"run '{run_name}' is one on '{known}' already; choose another --run")
    return str(run.info.run_id)


@contextlib.contextmanager
def running(run_id: str) -> Iterator[None]:
    """The run is shown as running, then as finished, failed or killed; MLflow records the load of running ones only."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
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
        except Exception as error:  # the server is away: the run itself is none the worse
            log.warning("tracking: run %s is not marked %s (%s)", run_id, status, _first_line(error))


class Recorder:
    """Writes metrics and pictures to a run from a thread of its own: a slow or absent server never holds up a step.

    It keeps what the server does not take and tries again, also for some minutes after `close`. While it is open it
    records the load of this machine too (MLflow's system metrics).
    """

    def __init__(self, run_id: str, *, tracking_uri: str) -> None:
        self._run_id = run_id
        self._tracking_uri = tracking_uri
        self._entries: queue.SimpleQueue[list[Metric] | tuple[int, np.ndarray, str]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._load_recorded = False
        self.problem: str | None = None  # what was lost, once something is; the user is to hear of it
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self.problem:
            return
        now = int(time.time() * 1000)
        self._entries.put([(name, value, now, step) for name, value in metrics.items()])

    def log_image(self, step: int, pixels: np.ndarray, *, key: str) -> None:
        """Add an H×W×3 uint8 picture."""
        self._entries.put((step, pixels, key))

    def close(self) -> None:
        """Wait until everything is written."""
        self._closing.set()
        self._thread.join()

    def _write(self) -> None:
        metrics: list[Metric] = []
        pictures: list[tuple[int, np.ndarray, str]] = []
        deadline = None
        with contextlib.ExitStack() as load:
            while True:
                if self._closing.wait(_FLUSH_SECONDS) and deadline is None:
                    deadline = time.monotonic() + _PATIENCE_SECONDS
                while not self._entries.empty():
                    entry = self._entries.get()
                    if isinstance(entry, list):
                        metrics += entry
                    else:
                        pictures.append(entry)
                try:
                    self._send(metrics, pictures)
                    if deadline is None:
                        self._record_load(load)
                except Exception as error:  # any of its many network errors: keep the rows and try again
                    log.warning("tracking: %d metrics wait (%s)", len(metrics), _first_line(error))
                    if getattr(error, "error_code", None) in _FINAL_ERRORS:
                        self.problem = f"the tracking server refused what came last ({_first_line(error)})"
                        return
                if deadline is not None and not (metrics or pictures):
                    return
                if deadline is not None and time.monotonic() > deadline:
                    self.problem = f"the tracking server did not answer, the last {len(metrics)} metrics are lost"
                    return
                if deadline is not None:
                    time.sleep(_FLUSH_SECONDS)

    def _send(self, metrics: list[Metric], pictures: list[tuple[int, np.ndarray, str]]) -> None:
        """Send both and take out of the lists what has arrived."""
        if not (metrics or pictures):
            return
        # Not before there is something to write: the import takes seconds that the first batch needs.
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self._tracking_uri)
        while metrics:
            rows = [
                MlflowMetric(name, value, timestamp, step) for name, value, timestamp, step in metrics[:_MOST_METRICS]
            ]
            client.log_batch(self._run_id, metrics=rows, synchronous=True)
            del metrics[:_MOST_METRICS]
        while pictures:
            step, pixels, key = pictures[0]
            client.log_image(self._run_id, pixels, key=key, step=step, synchronous=True)
            del pictures[0]

    def _record_load(self, load: contextlib.ExitStack) -> None:
        """Start MLflow's system metrics, once; they end with `load`."""
        if self._load_recorded or "mlflow" not in sys.modules:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._load_recorded = True
        monitor = SystemMetricsMonitor(self._run_id, resume_logging=True, tracking_uri=self._tracking_uri)
        monitor.start()
        load.callback(monitor.finish)


def register(bundle: Path, *, run_id: str, code: Path) -> ModelVersion:
    """Register a bundle as the challenger; the first model of all becomes the champion.

    code: the models-from-code script that MLflow runs to load it (nothing is pickled).
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    strength = ParamSchema([ParamSpec("strength", DataType.double, 1.0)])
    photos = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")  # the signature is given, not inferred
        info = mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=str(code),
            artifacts={BUNDLE_ARTIFACT: str(bundle)},
            signature=ModelSignature(inputs=photos, outputs=photos, params=strength),
            pip_requirements=_REQUIREMENTS,
        )
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)
    created = client.create_model_version(MODEL_NAME, info.model_uri, run_id=run_id, model_id=info.model_id)
    version = str(created.version)
    set_alias(CHALLENGER, version)
    if CHAMPION not in aliases():
        set_alias(CHAMPION, version)
    return ModelVersion(uri=f"models:/{MODEL_NAME}/{version}", version=version)


def aliases() -> dict[str, str]:
    """The aliases of the registered model and the versions they name; empty if none is registered."""
    from mlflow import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return {
            alias: str(version) for alias, version in MlflowClient().get_registered_model(MODEL_NAME).aliases.items()
        }
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise TrackingError(
            f"the model registry cannot be read ({_first_line(error)}); check MLFLOW_TRACKING_URI"
        ) from None


def set_alias(alias: str, version: str) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient().set_registered_model_alias(MODEL_NAME, alias, version)


def download_model(uri: str) -> tuple[Path, str]:
    """The local bundle folder of a `models:/` URI, and its version."""
    import mlflow
    from mlflow.tracking import MlflowClient

    try:
        name, _, alias = uri.removeprefix("models:/").partition("@")
        version = MlflowClient().get_model_version_by_alias(name, alias).version if alias else name.partition("/")[2]
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=tempfile.mkdtemp(prefix="naturaltone-"))
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(
            f"model '{uri}' cannot be loaded from '{mlflow.get_tracking_uri()}' ({_first_line(error)}); "
            "train one with `naturaltone train`, or check MLFLOW_TRACKING_URI"
        ) from None
    flavor = mlflow.models.Model.load(folder).flavors[mlflow.pyfunc.FLAVOR_NAME]
    return Path(folder) / flavor["artifacts"][BUNDLE_ARTIFACT]["path"], str(version)


def _revision() -> dict[str, str]:
    """The git revision of this code as a tag, where it runs from a checkout."""
    asked = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {"git_revision": asked.stdout.strip()} if asked.returncode == 0 else {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def log_evaluation(run_id: str, metrics: dict[str, float], page: str) -> None:
    """Add measures and an HTML page to a run, whatever its state; `TrackingError` if the server does not have it."""
    import mlflow
    from mlflow.entities import Metric as Entry
    from mlflow.tracking import MlflowClient

    _refuse_absent_database()
    now = int(time.time() * 1000)
    try:
        client = MlflowClient()
        client.get_run(run_id)
        client.log_batch(run_id, metrics=[Entry(name, value, now, 0) for name, value in metrics.items()])
        client.log_text(run_id, page, "evaluation.html")
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"tracking at '{mlflow.get_tracking_uri()}': {_first_line(error)}") from None


def model_of_run(run_name: str) -> str:
    """The `models:/` URI of the newest model that the run of that name registered; `TrackingError` if there is none."""
    import mlflow
    from mlflow.tracking import MlflowClient

    _refuse_absent_database()
    where = f"in tracking at '{mlflow.get_tracking_uri()}'"
    client = MlflowClient()
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = experiment and client.search_runs(
            [experiment.experiment_id], filter_string=f"attributes.run_name = '{run_name}'", max_results=1
        )
        versions = found and client.search_model_versions(f"run_id = '{found[0].info.run_id}'")
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"runs {where} cannot be read ({_first_line(error)}); check MLFLOW_TRACKING_URI") from None
    if not found:
        raise TrackingError(f"no run '{run_name}' {where}")
    if not versions:
        raise TrackingError(f"run '{run_name}' {where} has registered no model")
    newest = max(versions, key=lambda version: int(version.version))
    return f"models:/{newest.name}/{newest.version}"


def has_champion() -> bool:
    """Whether the registry has a model to take by default; `TrackingError` if it does not answer."""
    return _database_exists(os.environ.get("MLFLOW_TRACKING_URI", "")) and CHAMPION in aliases()


def _refuse_absent_database() -> None:
    """Looking into an SQLite file that is not there would make one."""
    import mlflow

    if not _database_exists(mlflow.get_tracking_uri()):
        raise TrackingError(f"there is no tracking at '{mlflow.get_tracking_uri()}'; check MLFLOW_TRACKING_URI")


def _database_exists(tracking_uri: str) -> bool:
    scheme, _, path = tracking_uri.partition(":///")
    return scheme != "sqlite" or Path(path).exists()
