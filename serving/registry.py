"""Finds and loads the model that a URI names, and registers new models."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.listing import list_files
from naturaltone.serving import promotions
from naturaltone.training import model_registry, tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle

PRETRAINED = "pretrained"  # the model that ships with this package; see its card
_REGISTERED = "models:/"
_ANNOUNCED = "announced"  # a tag of a version
_FILES = (BUNDLE_JSON, BUNDLE_TENSORS)


def register(bundle: Path, *, run_id: str) -> model_registry.ModelVersion:
    """Register the bundle of a finished run as the challenger, with its lineage. The very first model also becomes champion.

    To register the same run and weights again changes nothing. `RunFailed` if the tracking server refuses it.
    """
    script = importlib.util.find_spec("naturaltone.serving.pyfunc")  # found, not imported, since MLflow runs it
    assert script is not None and script.origin is not None  # a part of this package
    loaded = load_bundle(bundle)
    try:
        version = model_registry.create_version(
            bundle, run_id=run_id, digest=loaded.digest, code=Path(script.origin), tags=lineage_tags(loaded)
        )
        # This tag is set last. If a known version lacks it, its registration was killed halfway and is finished now.
        if _ANNOUNCED not in version.tags:
            model_registry.set_alias(model_registry.CHALLENGER, version.version)
            promotions.promote_first(version.version)
            model_registry.set_tag(version.version, _ANNOUNCED, "true")
    except tracking.TrackingError as error:
        raise RunFailed(
            f"the model in '{bundle}' could not be registered: {error}; then run the same command again"
        ) from error
    return version


def lineage_tags(bundle: Bundle) -> dict[str, str]:
    """Where a model comes from and how it was trained, as tags `lineage.FIELD` and `training.FIELD`."""
    natural = bundle.natural_model
    reference = natural and hashlib.sha256(natural.mean.tobytes() + natural.covariance.tobytes()).hexdigest()[:8]
    return {"lineage.niqe_reference": reference or "none"} | {
        f"{part}.{name}": value if isinstance(value, str) else json.dumps(value)
        for part in ("lineage", "training")
        for name, value in bundle.description.get(part, {}).items()
    }


def default_model() -> str:
    """The model of a command that names none: the registry's champion if it has one, else the pretrained model.

    `TrackingError` if there was a champion and it is gone.
    """
    is_there = tracking.database_exists(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return model_registry.CHAMPION_URI if is_there and promotions.champion() else PRETRAINED


def resolve(uri: str) -> str:
    """Resolve an alias to a version number, so that the URI names the same model after a promotion.

    Other URIs are returned unchanged. `TrackingError` if the registry does not know the alias.
    """
    return model_registry.resolve(uri) if uri.startswith(_REGISTERED) else uri


def load_model(uri: str) -> tuple[Bundle, str]:
    """Load the bundle that `uri` names; returns it and its version, NAME-DIGEST (the digest is that of the weights).

    uri: `pretrained`, a bundle folder, an `s3://` prefix or a registered model (`models:/name@alias`). `BundleError`
    for a folder without a usable bundle, `StorageError` for an S3 prefix without one, `TrackingError` for an unknown
    model.
    """
    with fetched(uri) as (folder, name):
        bundle = load_bundle(folder)
    return bundle, f"{name}-{bundle.digest}"


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[tuple[Path, str]]:
    """Yield a local folder with the files of the bundle that `uri` names, and the model's name. Errors: see `load_model`."""
    if uri == PRETRAINED:
        yield Path(__file__).parent / PRETRAINED, PRETRAINED
    elif uri.startswith(_REGISTERED):
        resolved = model_registry.resolve(uri)
        with tempfile.TemporaryDirectory(prefix="naturaltone-model-") as folder:
            yield model_registry.download_model(resolved, Path(folder)), resolved.removeprefix(_REGISTERED)
    else:
        name = uri.rstrip("/").rpartition("/")[2]
        if storage.is_s3(uri):
            storage.check_reachable(uri)
            with tempfile.TemporaryDirectory(prefix="naturaltone-model-") as folder:
                _download(uri, Path(folder))
                yield Path(folder), name
        else:
            yield Path(storage.resolve(uri)[1]), name


def state(uri: str) -> str:
    """A text that changes when `uri` names another model, or when the files of the model change. Nothing is loaded.

    Errors: see `load_model`; `OSError` if a local folder has no bundle.
    """
    if uri == PRETRAINED:
        return uri
    if uri.startswith(_REGISTERED):
        return model_registry.resolve(uri)
    if not storage.is_s3(uri):
        found = [os.stat(Path(storage.resolve(uri)[1], name)) for name in _FILES]
        return " ".join(f"{each.st_mtime_ns}-{each.st_ino}-{each.st_size}" for each in found)
    versions = {file.relative: file.version for file in list_files(uri)}
    if missing := [name for name in _FILES if name not in versions]:
        raise _lacks(uri, missing[0])
    return " ".join(versions[name] for name in _FILES)


def _download(uri: str, folder: Path) -> None:
    for name in _FILES:
        try:
            (folder / name).write_bytes(storage.read_bytes(storage.join(uri, name)))
        except OSError:
            raise _lacks(uri, name) from None


def _lacks(uri: str, name: str) -> storage.StorageError:
    return storage.StorageError(f"'{uri}': has no {name}; give the folder of a model bundle")
