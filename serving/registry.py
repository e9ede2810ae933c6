"""What a model URI names, and the models that are registered."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from naturaltone.pipeline import storage
from naturaltone.training import tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle

PRETRAINED = "pretrained"  # the model that comes with this package, see its card
_REGISTERED = "models:/"


def register(bundle: Path, *, run_id: str) -> tracking.ModelVersion:
    """Put a finished run's bundle into the registry, with the script that loads it; once, however often it is asked."""
    script = importlib.util.find_spec("naturaltone.serving.pyfunc")  # found, not imported: it is MLflow that runs it
    assert script is not None and script.origin is not None  # a part of this package
    return tracking.register(bundle, run_id=run_id, digest=load_bundle(bundle).digest, code=Path(script.origin))


def default_model() -> str:
    """What a command takes that names no model: the registry's champion if there is one, else the model shipped here."""
    return tracking.CHAMPION_URI if tracking.has_champion() else PRETRAINED


def resolve(uri: str) -> str:
    """A URI that names the same model for all who load it, whatever is promoted meanwhile."""
    return tracking.resolve(uri) if uri.startswith(_REGISTERED) else uri


def load_model(uri: str) -> tuple[Bundle, str]:
    """The bundle that `uri` names, and the version to report for it: a name for people, a digest for the weights.

    uri: `pretrained`, a bundle folder, an `s3://` prefix or a registered model (`models:/name@alias`).
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
                raise storage.StorageError(f"'{uri}': no {name} there; give the folder of a model bundle") from None
        return load_bundle(Path(local))
