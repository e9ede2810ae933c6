"""The last version of each model that served, on disk: a new process starts from it, also while the registry is away."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

from naturaltone.pipeline.caches import cache_folder
from naturaltone.pipeline.errors import first_line
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle

_FILES = (BUNDLE_JSON, BUNDLE_TENSORS)
_VERSION = "version"
# What `zipfile` and `load_bundle` raise for a file with a flipped byte.
_DAMAGED = (OSError, KeyError, ValueError, RuntimeError, EOFError, struct.error, zlib.error, zipfile.BadZipFile)

log = logging.getLogger(__name__)


def _named(uri: str) -> str:
    """The URI with the servers that give it its meaning: two registries may both have a `models:/naturaltone@champion`."""
    return " ".join([uri, *(os.environ.get(name, "") for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"))])


def _path(uri: str) -> Path:
    return cache_folder("models") / f"{hashlib.sha256(_named(uri).encode()).hexdigest()[:32]}.zip"


def keep(uri: str, folder: Path, version: str) -> None:
    """Write a bundle and its version into one file, whole or not at all. A full disk is no reason not to serve."""
    temporary = None
    try:
        path = _path(uri)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = file.name
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(zipfile.ZipInfo(_VERSION), version)
                for name in _FILES:  # without their times: images built reproducibly have 1970, which ZIP does not know
                    archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
        os.replace(temporary, path)
    except OSError as error:
        log.warning("'%s': the model cannot be kept for the next start (%s)", uri, error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def read(uri: str) -> tuple[Bundle, str] | None:
    """The bundle and the version that served last under this URI, None if the disk has none that can be used."""
    try:
        path = _path(uri)
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="naturaltone-model-") as folder:
            for name in _FILES:
                Path(folder, name).write_bytes(archive.read(name))
            return load_bundle(Path(folder)), archive.read(_VERSION).decode()
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        log.warning("'%s': the kept model cannot be read (%s); it is loaded again", uri, first_line(error))
        return None
