"""Runs, evaluations and the model registry in MLflow. Only this file, recorder.py and serving/pyfunc.py import MLflow."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from naturaltone.pipeline.errors import RunFailed, UserError, first_line

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
    from mlflow.tracking import MlflowClient

MODEL_NAME = "naturaltone"
EXPERIMENT = "naturaltone"
CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_URI = f"models:/{MODEL_NAME}@{CHAMPION}"
BUNDLE_ARTIFACT = "bundle"
_DIGEST, _ANNOUNCED = "digest", "announced"  # tags of a model version

# Listed here because MLflow would otherwise import the model in another process to find them out.
_REQUIREMENTS = ["naturaltone", "torch", "safetensors", "numpy", "opencv-python-headless", "pillow"]

log = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its errors go to our log file, not to the terminal


class TrackingError(UserError):
    """The tracking server, a run or a registered model cannot be used as asked."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of the model in the registry."""

    uri: str
    version: str


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
                mlflow.set_tags(tags | _revision())
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
            f"tracking at '{mlflow.get_tracking_uri()}' cannot be used ({first_line(error)}); check MLFLOW_TRACKING_URI"
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
            log.warning("tracking: run %s could not be marked as %s (%s)", run_id, status, first_line(error))


def register(bundle: Path, *, run_id: str, digest: str, code: Path) -> ModelVersion:
    """Register a bundle as the challenger. The very first model also becomes the champion.

    To register the same run and weights again changes nothing. digest: of the weights. code: the models-from-code script that
    MLflow runs to load the bundle (nothing is pickled). `RunFailed` if the server refuses or cannot be reached.
    """
    import mlflow
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    try:
        versions = client.search_model_versions(f"run_id = '{run_id}' AND name = '{MODEL_NAME}'")
        known = [found for found in versions if found.tags.get(_DIGEST) == digest]
        created = known[0] if known else _create_version(client, bundle, run_id=run_id, digest=digest, code=code)
        version = str(created.version)
        # This tag is set last. If a known version lacks it, its registration was killed halfway and is finished now.
        if _ANNOUNCED not in created.tags:
            set_alias(CHALLENGER, version)
            if CHAMPION not in aliases():
                set_alias(CHAMPION, version)
            client.set_model_version_tag(MODEL_NAME, version, _ANNOUNCED, "true")
    except (mlflow.MlflowException, OSError, TrackingError) as error:
        raise RunFailed(
            f"the model in '{bundle}' could not be registered ({first_line(error)}); check MLFLOW_TRACKING_URI and run "
            "the same command again"
        ) from error
    return ModelVersion(uri=f"models:/{MODEL_NAME}/{version}", version=version)


def _create_version(client: MlflowClient, bundle: Path, *, run_id: str, digest: str, code: Path) -> RegisteredVersion:
    import mlflow
    from mlflow.models import ModelSignature
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
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)
    return client.create_model_version(
        MODEL_NAME, info.model_uri, run_id=run_id, model_id=info.model_id, tags={_DIGEST: digest}
    )


def aliases() -> dict[str, str]:
    """The registered model's aliases and the version that each names. Empty if no model is registered."""
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
            f"the model registry cannot be read ({first_line(error)}); check MLFLOW_TRACKING_URI"
        ) from None


def set_alias(alias: str, version: str) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient().set_registered_model_alias(MODEL_NAME, alias, version)


def resolve(uri: str) -> str:
    """Make a `models:/` URI name the same model for ever.

    An alias or `latest` is replaced by the number of the version that it names now.
    """
    import mlflow
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        if alias:
            return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
        if name.endswith("/latest"):
            name = name.removesuffix("/latest")
            versions = client.search_model_versions(f"name = '{name}'")
            return f"models:/{name}/{max((int(each.version) for each in versions), default=1)}"
        return uri
    except (mlflow.MlflowException, OSError) as error:
        raise _not_loaded(uri, error) from None


def download_model(uri: str, folder: Path) -> Path:
    """Download the model of a resolved `models:/` URI into `folder`; return the folder of its bundle."""
    import mlflow

    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        flavor = mlflow.models.Model.load(str(found)).flavors[mlflow.pyfunc.FLAVOR_NAME]
    except (mlflow.MlflowException, OSError) as error:
        raise _not_loaded(uri, error) from None
    return found / flavor["artifacts"][BUNDLE_ARTIFACT]["path"]


def _not_loaded(uri: str, error: Exception) -> TrackingError:
    import mlflow

    return TrackingError(
        f"model '{uri}' cannot be loaded from '{mlflow.get_tracking_uri()}' ({first_line(error)}); "
        "train one with `naturaltone train`, or check MLFLOW_TRACKING_URI"
    )


def _revision() -> dict[str, str]:
    """A tag with the git revision of this code, if the code runs from its own checkout."""
    folder = Path(__file__).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}  # installed, maybe in a virtual environment within somebody else's checkout
    revision = _git(folder, "rev-parse", "HEAD")
    return {"git_revision": revision} if revision else {}


def _git(folder: Path, *arguments: str) -> str | None:
    asked = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def log_evaluation(run_id: str, metrics: dict[str, float], page: str) -> None:
    """Add measures and an HTML page to a run in any state. `TrackingError` if the server does not have the run."""
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
        raise TrackingError(f"tracking at '{mlflow.get_tracking_uri()}': {first_line(error)}") from None


def model_of_run(run_name: str) -> str:
    """The `models:/` URI of the newest model that the run `run_name` registered. `TrackingError` if there is none."""
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
        raise TrackingError(f"runs {where} cannot be read ({first_line(error)}); check MLFLOW_TRACKING_URI") from None
    if not found:
        raise TrackingError(f"no run '{run_name}' {where}")
    if not versions:
        raise TrackingError(f"run '{run_name}' {where} has registered no model")
    newest = max(versions, key=lambda version: int(version.version))
    return f"models:/{newest.name}/{newest.version}"


def has_champion() -> bool:
    """Whether the registry has a champion, the model to use by default. `TrackingError` if the registry does not answer."""
    return _database_exists(os.environ.get("MLFLOW_TRACKING_URI", "")) and CHAMPION in aliases()


def _refuse_absent_database() -> None:
    """`TrackingError` if the SQLite file does not exist. To open it would create it."""
    import mlflow

    if not _database_exists(mlflow.get_tracking_uri()):
        raise TrackingError(f"there is no tracking at '{mlflow.get_tracking_uri()}'; check MLFLOW_TRACKING_URI")


def _database_exists(tracking_uri: str) -> bool:
    scheme, _, path = tracking_uri.partition(":///")
    return scheme != "sqlite" or Path(path).exists()
