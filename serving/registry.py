"""Finds and loads the model that a URI names, and registers new models."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from naturaltone.pipeline import storage
from naturaltone.pipeline.listing import list_files
from naturaltone.training import tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle

PRETRAINED = "pretrained"  # the model that ships with this package; see its card
_REGISTERED = "models:/"
_FILES = (BUNDLE_JSON, BUNDLE_TENSORS)


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
    with fetched(uri) as (folder, name):
        bundle = load_bundle(folder)
    return bundle, f"{name}-{bundle.digest}"


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[tuple[Path, str]]:
    """Yield a local folder with the files of the bundle that `uri` names, and the model's name. Errors: see `load_model`."""
    if uri == PRETRAINED:
        yield Path(__file__).parent / PRETRAINED, PRETRAINED
    elif uri.startswith(_REGISTERED):
        resolved = tracking.resolve(uri)
        with tempfile.TemporaryDirectory(prefix="naturaltone-model-") as folder:
            yield tracking.download_model(resolved, Path(folder)), resolved.removeprefix(_REGISTERED)
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
        return tracking.resolve(uri)
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
