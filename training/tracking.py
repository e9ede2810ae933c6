"""Runs, metrics, images and the model registry; with the script in serving/pyfunc.py the only file that imports MLflow."""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlflow.entities import Metric

MODEL_NAME = "naturaltone"
EXPERIMENT = "naturaltone"
CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE_ARTIFACT = "bundle"

_FLUSH_SECONDS = 2.0
# Said, not inferred: MLflow would import the model in a process of its own to find out.
_REQUIREMENTS = ["naturaltone", "torch", "safetensors", "numpy", "opencv-python-headless", "pillow"]

log = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


class TrackingError(ValueError):
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


def start_run(*, run_name: str, params: dict[str, Any], tags: dict[str, str], may_change: set[str]) -> str:
    """Open a run on the tracking server of `MLFLOW_TRACKING_URI`, or go on with the one of that name; returns its id.

    `TrackingError` if that one has other params or tags, but for those that `may_change`.
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
            mlflow.set_tags(tags)
    known = {**run.data.params, **run.data.tags}
    other = [
        f"{name} {known[name]}, now {value}"
        for name, value in {**params, **tags}.items()
        if found and name not in may_change and known.get(name, str(value)) != str(value)
    ]
    if other:
        raise TrackingError(
            f"run '{run_name}' was started with {'; '.join(other)}; set it so again or choose another --run"
        )
    return str(run.info.run_id)


class Recorder:
    """Writes metrics to a run from a thread of its own: a slow or absent tracking server never holds up a step."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._rows: queue.SimpleQueue[tuple[int, int, dict[str, float]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._rows.put((step, int(time.time() * 1000), metrics))

    def close(self) -> None:
        """Wait until everything is written."""
        self._closing.set()
        self._thread.join()

    def _write(self) -> None:
        pending: list[Metric] = []
        closing = False
        while not closing:
            closing = self._closing.wait(_FLUSH_SECONDS)
            if self._rows.empty() and not pending:
                continue
            # Not before there is something to write: the import takes seconds that the first batch needs.
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient

            while not self._rows.empty():
                step, timestamp, metrics = self._rows.get()
                pending += [Metric(name, value, timestamp, step) for name, value in metrics.items()]
            try:
                while pending:  # a server takes at most 1000 at once
                    MlflowClient().log_batch(self._run_id, metrics=pending[:1000], synchronous=True)
                    del pending[:1000]
            except Exception as error:  # any of its many network errors: keep the rows and try again
                log.warning("tracking: %d metrics wait (%s)", len(pending), _first_line(error))
        if pending:
            log.error("tracking: the last %d metrics are lost, the server does not answer", len(pending))


def log_image(run_id: str, pixels: np.ndarray, *, key: str, step: int) -> None:
    """Add an H×W×3 uint8 picture to a run."""
    import mlflow

    with mlflow.start_run(run_id=run_id):
        mlflow.log_image(pixels, key=key, step=step)


def log_metrics(run_id: str, metrics: dict[str, float]) -> None:
    import mlflow

    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics(metrics)


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
