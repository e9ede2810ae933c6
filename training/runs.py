"""A run's folder in its store: the settings and the manifest that it began with, and its checkpoints, whole or absent.

runs/NAME/run.json                          configuration and algorithm
runs/NAME/manifest.parquet                  the store as it was when the run began: later ingests change no batch
runs/NAME/checkpoints/step-00000200/        checkpoint.safetensors, then checkpoint.json, which makes it valid
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
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
MAY_CHANGE = ("steps", "checkpoint_every")  # settings that may change when a run is resumed
KEPT_NEWEST = 2
PATIENCE_SECONDS = 600.0  # to wait for a storage server that is away
_RETRY_SECONDS = 2.0
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STEP_FOLDER = re.compile(rf"step-(\d+)/{re.escape(CHECKPOINT_JSON)}")

log = logging.getLogger(__name__)


class CheckpointLost(RunFailed):
    """A checkpoint could not be written. The checkpoint before it is whole."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has begun. uri: its folder. store: the store as it was when the run began."""

    uri: str
    store: shards.Store


def hold(store_uri: str, name: str) -> contextlib.AbstractContextManager[lease.Lease]:
    """Lock the run `name` of a store, so that one process trains it at a time.

    `StorageError` if another process holds the lock.
    """
    return lease.hold(storage.join(run_uri(store_uri, name), "running.json"), what=f"run '{name}' of '{store_uri}'")


def begin(
    store_uri: str,
    name: str,
    config: TrainConfig,
    *,
    beside: str | None = None,
    start: Callable[[], Snapshot] | None = None,
) -> Run:
    """Begin the run `name` on a store, or open it again if it has begun.

    beside: another run of the same store; a new run takes the photos of that run, even if the store has grown since.
    start: makes the state that a new run starts from, which becomes its checkpoint of step 0; None for new networks.
    `UserError` if the run began with other settings or has done more steps, `BundleError` if its last checkpoint is damaged.
    """
    uri = run_uri(store_uri, name)
    store = shards.open_store(store_uri)
    settings = {"config": dataclasses.asdict(config), "algorithm": store.algorithm}
    try:
        begun = json.loads(storage.read_bytes(storage.join(uri, RUN_JSON)))
    except FileNotFoundError:
        _freeze_manifest(store_uri if beside is None else run_uri(store_uri, beside), uri)
        if start is not None:
            _write_checkpoint(uri, dataclasses.replace(start(), step=0, config=config, score=math.nan))
        storage.write_bytes(storage.join(uri, RUN_JSON), json.dumps(settings, indent=1).encode())
        return open_run(store_uri, name)
    _refuse_other_settings(name, begun, settings)
    steps_done = newest_checkpoint(uri) or 0
    if steps_done:
        read_checkpoint(uri, steps_done)  # refuses a damaged checkpoint here and not in every worker
    if steps_done > config.steps:
        raise UserError(
            f"run '{name}' has done {steps_done} steps already; set steps to at least {steps_done} or choose another --run"
        )
    return open_run(store_uri, name)


def open_run(store_uri: str, name: str) -> Run:
    """Open a run that has begun, with the store as it was when the run began."""
    uri = run_uri(store_uri, name)
    return Run(uri=uri, store=shards.open_store(store_uri, manifest=storage.join(uri, shards.MANIFEST)))


def run_uri(store_uri: str, name: str) -> str:
    """The folder of a run. `UserError` for a name that no folder should have."""
    if not _RUN_NAME.fullmatch(name):
        raise UserError(f"run name '{name}': use letters, digits, '.', '_' and '-'")
    return storage.join(store_uri, shards.RUNS, name)


def _freeze_manifest(source: str, uri: str) -> None:
    """Copy the manifest into the run's folder, and again if the original has changed before the copy was written.

    A forget deletes files that no manifest names. It changes the store's manifest first and then reads the runs' copies,
    so an old copy must not be written after it has looked.
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
    """The steps after which a run has a whole checkpoint, ascending. uri: the run's folder."""
    folder = storage.join(uri, "checkpoints")
    with contextlib.suppress(FileNotFoundError):
        found = (_STEP_FOLDER.fullmatch(file.relative) for file in list_files(folder))
        return sorted(int(match[1]) for match in found if match)
    return []


def newest_checkpoint(uri: str) -> int | None:
    """The steps after which a run has its last whole checkpoint; None if it has none. A run that goes on from another has 0."""
    return max(list_checkpoints(uri), default=None)


def read_checkpoint(uri: str, step: int) -> Snapshot:
    """Read the checkpoint of a run after `step` steps. `BundleError` if its content has changed."""
    folder = _folder(uri, step)
    files = {name: storage.read_bytes(storage.join(folder, name)) for name in (CHECKPOINT_JSON, CHECKPOINT_TENSORS)}
    return checkpoint.unpack(files, uri=folder)


class CheckpointWriter:
    """Writes a run's checkpoints from its own thread. It keeps the best one and the two newest of the others.

    While the storage server is away, the writer tries again and training goes on. If several snapshots wait, only the newest
    is written. judge: scores a snapshot, higher is better. check_lock: raises an error if the run's lock is not ours. Both
    run in the writer's thread.
    """

    def __init__(
        self, uri: str, *, judge: Callable[[Snapshot], float], check_lock: Callable[[], None] = lambda: None
    ) -> None:
        self._uri = uri
        self._judge = judge
        self._check_lock = check_lock
        self._scores = {step: read_checkpoint(uri, step).score for step in list_checkpoints(uri)}
        self._waiting: Snapshot | None = None
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, snapshot: Snapshot) -> None:
        """Have `snapshot` written. `CheckpointLost` if an earlier one could not be written."""
        with self._changed:
            self.check()
            self._waiting = snapshot
            self._changed.notify()

    def check(self) -> None:
        """`CheckpointLost` if a checkpoint could not be written."""
        if self._error:
            raise CheckpointLost(f"checkpoint not written: {self._error}")

    def close(self) -> None:
        """Wait until the last snapshot is written. `CheckpointLost` if it cannot be written."""
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
            except Exception as error:  # after any error: a run that can no longer save must stop
                self._error = error
                return

    def _write(self, snapshot: Snapshot) -> None:
        _write_checkpoint(self._uri, snapshot, self._check_lock)
        self._scores[snapshot.step] = snapshot.score
        best = max(self._scores, key=lambda step: (_rank(self._scores[step]), step))
        for step in sorted(set(self._scores) - {best})[:-KEPT_NEWEST]:
            for name in (CHECKPOINT_JSON, CHECKPOINT_TENSORS):
                _patiently(self._check_lock, storage.delete, storage.join(_folder(self._uri, step), name))
            storage.delete_empty_folder(_folder(self._uri, step))
            del self._scores[step]


def _rank(score: float) -> float:
    """A score for comparisons. What nobody has judged (NaN) comes last."""
    return -math.inf if math.isnan(score) else score


def _write_checkpoint(uri: str, snapshot: Snapshot, check_lock: Callable[[], None] = lambda: None) -> None:
    folder, files = _folder(uri, snapshot.step), checkpoint.pack(snapshot)
    for name in (CHECKPOINT_TENSORS, CHECKPOINT_JSON):  # the JSON last: a checkpoint without it does not count
        _patiently(check_lock, storage.write_bytes, storage.join(folder, name), files[name])


def _refuse_other_settings(name: str, begun: dict, settings: dict) -> None:
    # A run that an older version began lacks the settings that are new; it ran with their defaults.
    before, now = (
        {**dataclasses.asdict(TrainConfig()), **run["config"], "algorithm": run["algorithm"]}
        for run in (begun, settings)
    )
    other = [
        f"{field} {before.get(field)}, now {value}"
        for field, value in now.items()
        if field not in MAY_CHANGE and before.get(field) != value
    ]
    if other:
        raise UserError(
            f"run '{name}' was started with {'; '.join(other)}; use the old settings or choose another --run"
        )


def _folder(uri: str, step: int) -> str:
    return storage.join(uri, "checkpoints", f"step-{step:08}")


def _patiently(check: Callable[[], None], action: Callable[..., None], uri: str, *arguments: bytes) -> None:
    """Call `check` and then `action`; while an S3 server is away, try both again for up to `PATIENCE_SECONDS`.

    An error that waiting cannot mend is raised at once.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            check()
            return action(uri, *arguments)
        except (PermissionError, FileNotFoundError):
            raise
        except OSError as error:
            if not storage.is_s3(uri) or time.monotonic() > deadline:
                raise
            log.warning("a checkpoint waits for the storage server: %s", error)
            time.sleep(_RETRY_SECONDS)
