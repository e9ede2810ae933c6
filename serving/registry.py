"""Finds and loads the model that a URI names, and registers new models."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from naturaltone.pipeline import storage
from naturaltone.training import tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle

PRETRAINED = "pretrained"  # the model that ships with this package; see its card
_REGISTERED = "models:/"


def register(bundle: Path, *, run_id: str) -> tracking.ModelVersion:
    """Register the bundle of a finished run, with the script that loads it. Repeated calls register it only once.

    `RunFailed` if the tracking server refuses it.
    """
    script = importlib.util.find_spec("naturaltone.serving.pyfunc")  # found, not imported, since MLflow runs it
    assert script is not None and script.origin is not None  # a part of this package
    return tracking.register(bundle, run_id=run_id, digest=load_bundle(bundle).digest, code=Path(script.origin))


def default_model() -> str:
    """The model of a command that names none: the registry's champion if it has one, else the pretrained model."""
    return tracking.CHAMPION_URI if tracking.has_champion() else PRETRAINED


def resolve(uri: str) -> str:
    """Resolve an alias to a version number, so that the URI names the same model after a promotion.

    Other URIs are returned unchanged. `TrackingError` if the registry does not know the alias.
    """
    return tracking.resolve(uri) if uri.startswith(_REGISTERED) else uri


def load_model(uri: str) -> tuple[Bundle, str]:
    """Load the bundle that `uri` names; returns it and its version, NAME-DIGEST (the digest is that of the weights).

    uri: `pretrained`, a bundle folder, an `s3://` prefix or a registered model (`models:/name@alias`). `BundleError`
    for a folder without a usable bundle, `StorageError` for an S3 prefix without one, `TrackingError` for an unknown
    model.
    """
    if uri == PRETRAINED:
        name, bundle = PRETRAINED, load_bundle(Path(__file__).parent / PRETRAINED)
    elif uri.startswith(_REGISTERED):
        resolved = tracking.resolve(uri)
        name = resolved.removeprefix(_REGISTERED)
        with tempfile.TemporaryDirectory(prefix="naturaltone-model-") as folder:
            bundle = load_bundle(tracking.download_model(resolved, Path(folder)))
    else:
        name = uri.rstrip("/").rpartition("/")[2]
        bundle = _load_stored(uri) if storage.is_s3(uri) else load_bundle(Path(storage.resolve(uri)[1]))
    return bundle, f"{name}-{bundle.digest}"


def _load_stored(uri: str) -> Bundle:
    storage.check_reachable(uri)
    with tempfile.TemporaryDirectory() as local:
        for name in (BUNDLE_JSON, BUNDLE_TENSORS):
            try:
                (Path(local) / name).write_bytes(storage.read_bytes(storage.join(uri, name)))
            except OSError:
                raise storage.StorageError(f"'{uri}': has no {name}; give the folder of a model bundle") from None
        return load_bundle(Path(local))
