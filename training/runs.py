"""A run's folder in its store: what it began with, and its checkpoints, written beside the training, whole or absent.

runs/NAME/run.json                          configuration and algorithm
runs/NAME/manifest.parquet                  the store as it was when the run began: later ingests change no batch
runs/NAME/checkpoints/step-00000200/        checkpoint.safetensors, then checkpoint.json, which makes it one
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline import lease, storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.listing import list_files
from naturaltone.training import checkpoint
from naturaltone.training.checkpoint import CHECKPOINT_JSON, CHECKPOINT_TENSORS, Snapshot
from naturaltone.training.config import TrainConfig

RUN_JSON = "run.json"
MAY_CHANGE = ("steps", "checkpoint_every")  # of a run's configuration, when it is resumed
KEPT_NEWEST = 2
PATIENCE_SECONDS = 600.0  # that a storage server may be away
_RETRY_SECONDS = 2.0
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STEP_FOLDER = re.compile(rf"step-(\d+)/{re.escape(CHECKPOINT_JSON)}")

log = logging.getLogger(__name__)


class CheckpointLost(RunFailed):
    """A checkpoint could not be written; the one before it is whole."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A begun run: the place of its folder, and the store as it was then."""

    uri: str
    store: shards.Store


def hold(store_uri: str, name: str) -> contextlib.AbstractContextManager[lease.Lease]:
    """Hold the run `name` of a store: one process trains it at a time."""
    return lease.hold(storage.join(_run_uri(store_uri, name), "running.json"), what=f"run '{name}' of '{store_uri}'")


def begin(store_uri: str, name: str, config: TrainConfig, *, beside: str | None = None) -> Run:
    """Begin the run `name` on a store, or open it again as it was begun; `UserError` if it was begun with other settings.

    beside: a run of the same store whose photos are to be taken, however the store has grown since.
    """
    uri = _run_uri(store_uri, name)
    store = shards.open_store(store_uri)
    settings = {"config": dataclasses.asdict(config), "algorithm": store.algorithm}
    try:
        begun = json.loads(storage.read_bytes(storage.join(uri, RUN_JSON)))
    except FileNotFoundError:
        _freeze_manifest(store_uri if beside is None else _run_uri(store_uri, beside), uri)
        storage.write_bytes(storage.join(uri, RUN_JSON), json.dumps(settings, indent=1).encode())
        return open_run(store_uri, name)
    _refuse_other_settings(name, begun, settings)
    steps_done = max(list_checkpoints(uri), default=0)
    if steps_done:
        read_checkpoint(uri, steps_done)  # refuses a damaged one now, not in every worker
    if steps_done > config.steps:
        raise UserError(
            f"run '{name}' has done {steps_done} steps already; set steps to at least that or choose another --run"
        )
    return open_run(store_uri, name)


def open_run(store_uri: str, name: str) -> Run:
    """A run that has begun, with the store as it was then."""
    uri = _run_uri(store_uri, name)
    return Run(uri=uri, store=shards.open_store(store_uri, manifest=storage.join(uri, shards.MANIFEST)))


def _run_uri(store_uri: str, name: str) -> str:
    if not _RUN_NAME.fullmatch(name):
        raise UserError(f"run name '{name}': use letters, digits, '.', '_' and '-'")
    return storage.join(store_uri, shards.RUNS, name)


def _freeze_manifest(source: str, uri: str) -> None:
    """Copy the manifest into the run's folder, until the copy is in place before the store changes.

    A forget deletes what no manifest names: it changes the store's first, then looks at the runs' copies.
    """
    manifest, copy = storage.join(source, shards.MANIFEST), storage.join(uri, shards.MANIFEST)
    content = storage.read_bytes(manifest)
    while True:
        storage.write_bytes(copy, content)
        newest = storage.read_bytes(manifest)
        if newest == content:
            return
        content = newest


def list_checkpoints(uri: str) -> list[int]:
    """The steps of a run's whole checkpoints, ascending."""
    folder = storage.join(uri, "checkpoints")
    with contextlib.suppress(FileNotFoundError):
        found = (_STEP_FOLDER.fullmatch(file.relative) for file in list_files(folder))
        return sorted(int(match[1]) for match in found if match)
    return []


def read_checkpoint(uri: str, step: int) -> Snapshot:
    """The checkpoint of a run after `step` steps; `BundleError` if a byte of it has changed."""
    folder = _folder(uri, step)
    files = {name: storage.read_bytes(storage.join(folder, name)) for name in (CHECKPOINT_JSON, CHECKPOINT_TENSORS)}
    return checkpoint.unpack(files, uri=folder)


class CheckpointWriter:
    """Writes a run's checkpoints from a thread of its own, and deletes those that are neither among the newest nor the best.

    While the storage server is away it goes on trying, and training goes on; of checkpoints that wait, the newest counts.
    judge: scores a snapshot, higher is better; in the same thread.
    """

    def __init__(self, uri: str, *, judge: Callable[[Snapshot], float]) -> None:
        self._uri = uri
        self._judge = judge
        self._scores = {step: read_checkpoint(uri, step).score for step in list_checkpoints(uri)}
        self._waiting: Snapshot | None = None
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, snapshot: Snapshot) -> None:
        """Have `snapshot` written; `CheckpointLost` if an earlier one could not be."""
        with self._changed:
            self.check()
            self._waiting = snapshot
            self._changed.notify()

    def check(self) -> None:
        """`CheckpointLost` if a checkpoint could not be written."""
        if self._error:
            raise CheckpointLost(f"checkpoint not written: {self._error}")

    def close(self) -> None:
        """Wait until the last one is written; `CheckpointLost` if it cannot be."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self.check()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                snapshot, self._waiting = self._waiting, None
            if snapshot is None:
                return
            try:
                self._write(dataclasses.replace(snapshot, score=self._judge(snapshot)))
            except Exception as error:  # whatever it is, a run that no longer saves must not go on as if it did
                self._error = error
                return

    def _write(self, snapshot: Snapshot) -> None:
        folder, files = _folder(self._uri, snapshot.step), checkpoint.pack(snapshot)
        for name in (CHECKPOINT_TENSORS, CHECKPOINT_JSON):  # in this order: a checkpoint without its JSON is none
            _patiently(storage.write_bytes, storage.join(folder, name), files[name])
        self._scores[snapshot.step] = snapshot.score
        best = max(self._scores, key=lambda step: (self._scores[step], step))
        for step in sorted(set(self._scores) - {best})[:-KEPT_NEWEST]:
            for name in (CHECKPOINT_JSON, CHECKPOINT_TENSORS):
                _patiently(storage.delete, storage.join(_folder(self._uri, step), name))
            storage.delete_empty_folder(_folder(self._uri, step))
            del self._scores[step]


def _refuse_other_settings(name: str, begun: dict, settings: dict) -> None:
    before, now = ({**run["config"], "algorithm": run["algorithm"]} for run in (begun, settings))
    other = [
        f"{field} {before.get(field)}, now {value}"
        for field, value in now.items()
        if field not in MAY_CHANGE and before.get(field) != value
    ]
    if other:
        raise UserError(f"run '{name}' was started with {'; '.join(other)}; set it so again or choose another --run")


def _folder(uri: str, step: int) -> str:
    return storage.join(uri, "checkpoints", f"step-{step:08}")


def _patiently(action: Callable[..., None], uri: str, *arguments: bytes) -> None:
    """Do it; while an S3 server is away, again and again, up to `PATIENCE_SECONDS`. What no waiting mends fails at once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action(uri, *arguments)
        except (PermissionError, FileNotFoundError):
            raise
        except OSError as error:
            if not storage.is_s3(uri) or time.monotonic() > deadline:
                raise
            log.warning("checkpoint waits: %s", error)
            time.sleep(_RETRY_SECONDS)
