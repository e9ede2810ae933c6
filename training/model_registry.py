"""The registry of models in MLflow: the versions, what their tags tell, and the aliases that name them.

Only this file, tracking.py, recorder.py and serving/pyfunc.py import MLflow.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from naturaltone.training.tracking import EXPERIMENT, TrackingError, reason, refuse_absent_database

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

MODEL_NAME = "naturaltone"
CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_URI = f"models:/{MODEL_NAME}@{CHAMPION}"
BUNDLE_ARTIFACT = "bundle"
_DIGEST = "digest"  # a tag of each version

# Listed here because MLflow would otherwise import the model in another process to find them out.
_REQUIREMENTS = ["naturaltone", "torch", "safetensors", "numpy", "opencv-python-headless", "pillow"]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of the model in the registry. run_id: the MLflow run that trained it. created: when, in UTC."""

    version: str
    run_id: str
    created: datetime
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{MODEL_NAME}/{self.version}"


def create_version(bundle: Path, *, run_id: str, digest: str, code: Path, tags: Mapping[str, str]) -> ModelVersion:
    """Make a bundle a version of the model, or return the version that this run and these weights are already.

    digest: of the weights. code: the models-from-code script that MLflow runs to load the bundle (nothing is pickled).
    """
    from mlflow.tracking import MlflowClient

    with _reachable():
        versions = MlflowClient().search_model_versions(f"run_id = '{run_id}' AND name = '{MODEL_NAME}'")
        known = [found for found in versions if found.tags.get(_DIGEST) == digest]
        return _ours(known[0] if known else _create(bundle, run_id=run_id, code=code, tags={_DIGEST: digest, **tags}))


def _create(bundle: Path, *, run_id: str, code: Path, tags: Mapping[str, str]) -> RegisteredVersion:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    client = MlflowClient()
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
        MODEL_NAME, info.model_uri, run_id=run_id, model_id=info.model_id, tags=dict(tags)
    )


def versions() -> list[ModelVersion]:
    """All versions in the registry, the newest first."""
    from mlflow.tracking import MlflowClient

    with _reachable():
        found = MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")
    return sorted(map(_ours, found), key=lambda each: int(each.version), reverse=True)


def find_version(version: str) -> ModelVersion:
    """The version with this number, or the one that this alias names. `TrackingError` if there is none."""
    number = version if version.isdecimal() else aliases().get(version, "")
    for each in versions():
        if each.version == number:
            return each
    known = ", ".join(sorted(aliases())) or "none"
    raise TrackingError(
        f"model version '{version}': the registry has no such version or alias (aliases: {known}); "
        "`naturaltone models list` shows all"
    )


def aliases() -> dict[str, str]:
    """The registered model's aliases and the version that each names. Empty if no model is registered."""
    return {alias: str(version) for alias, version in _registered("aliases").items()}


def set_alias(alias: str, version: str) -> None:
    from mlflow.tracking import MlflowClient

    with _reachable():
        MlflowClient().set_registered_model_alias(MODEL_NAME, alias, version)


def notes() -> dict[str, str]:
    """The tags of the registered model, which outlive its versions. Empty if no model is registered."""
    return {str(key): str(value) for key, value in _registered("tags").items()}


def set_note(key: str, value: str) -> None:
    """Set a tag of the registered model. value: at most 5000 characters."""
    from mlflow.tracking import MlflowClient

    with _reachable():
        MlflowClient().set_registered_model_tag(MODEL_NAME, key, value)


def set_tag(version: str, key: str, value: str) -> None:
    """Set a tag of a version."""
    from mlflow.tracking import MlflowClient

    with _reachable():
        MlflowClient().set_model_version_tag(MODEL_NAME, version, key, value)


def measures_of(version: ModelVersion) -> dict[str, float]:
    """The last values of what `naturaltone evaluate` logged to the version's run, such as `eval/result/niqe`."""
    from mlflow.tracking import MlflowClient

    with _reachable():
        metrics = MlflowClient().get_run(version.run_id).data.metrics
    return {name: value for name, value in metrics.items() if name.startswith("eval/")}


def _registered(field: str) -> Mapping[str, object]:
    from mlflow import MlflowException
    from mlflow.tracking import MlflowClient

    with _reachable():
        try:
            return dict(getattr(MlflowClient().get_registered_model(MODEL_NAME), field))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Turn what MLflow raises when its server fails into one line."""
    import mlflow

    refuse_absent_database()
    try:
        yield
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(
            f"the model registry at '{mlflow.get_tracking_uri()}' cannot be used ({reason(error)}); "
            "check MLFLOW_TRACKING_URI"
        ) from error


def _ours(found: RegisteredVersion) -> ModelVersion:
    return ModelVersion(
        version=str(found.version),
        run_id=found.run_id or "",
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        tags=dict(found.tags),
    )


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
        f"model '{uri}' cannot be loaded from '{mlflow.get_tracking_uri()}' ({reason(error)}); "
        "train one with `naturaltone train`, or check MLFLOW_TRACKING_URI"
    )


def model_of_run(run_name: str) -> str:
    """The `models:/` URI of the newest model that the run `run_name` registered. `TrackingError` if there is none."""
    import mlflow
    from mlflow.tracking import MlflowClient

    refuse_absent_database()
    where = f"in tracking at '{mlflow.get_tracking_uri()}'"
    client = MlflowClient()
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = experiment and client.search_runs(
            [experiment.experiment_id], filter_string=f"attributes.run_name = '{run_name}'", max_results=1
        )
        versions = found and client.search_model_versions(f"run_id = '{found[0].info.run_id}'")
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"runs {where} cannot be read ({reason(error)}); check MLFLOW_TRACKING_URI") from None
    if not found:
        raise TrackingError(f"no run '{run_name}' {where}")
    if not versions:
        raise TrackingError(f"run '{run_name}' {where} has registered no model")
    newest = max(versions, key=lambda version: int(version.version))
    return f"models:/{newest.name}/{newest.version}"
