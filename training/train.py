"""The Ray Train edge: DDP workers around the step, fed by the stream, with checkpoints in object storage."""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer

from pipeline import images, shards, storage, stream
from pipeline.failures import cause
from pipeline.progress import Progress
from training import checkpoint, tracking
from training.board import Board
from training.config import TrainConfig
from training.history import History
from training.loop import FitReport, Metrics, fit
from training.networks import ToneEnhancer
from training.step import GanStep, to_pixels, to_tensor

_PROGRESS_SECONDS = 1.0
_KEPT_CHECKPOINTS = 2
_SAMPLE_PHOTOS, _SAMPLE_HEIGHT = 4, 240
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TrainingFailed(RuntimeError):
    """The run stopped before its end; the same command with the same run name goes on from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: its model bundle, its MLflow run, and what it did.

    losses_first, losses_last: means over the first and the last fifth of the steps; empty if these ran before a resume.
    """

    bundle: Path
    run_id: str
    workers: int
    report: FitReport
    images_per_second: float
    losses_first: Metrics
    losses_last: Metrics


def train(
    store_uri: str,
    config: TrainConfig,
    *,
    run_name: str,
    workers: int,
    use_gpu: bool,
    bundle: Path,
    intermediates: str | None = None,
) -> TrainResult:
    """Train on the store with `workers` DDP workers and write the model bundle to the folder `bundle`.

    The same `run_name` resumes. intermediates: `cached` or `stream`, the same pixels (see `stream.make_plan`).
    `ValueError` before any work for a wrong store, name or configuration; `TrainingFailed` if the run itself fails.
    """
    if not _RUN_NAME.fullmatch(run_name):
        raise ValueError(f"run name '{run_name}': use letters, digits, '.', '_' and '-'")
    store_uri = storage.absolute(store_uri)
    store = shards.open_store(store_uri)
    if config.batch % workers:
        raise ValueError(
            f"batch={config.batch} cannot be shared by {workers} workers; set batch to a multiple of {workers}"
        )
    stream.make_plan(store, batch=config.batch, crop=config.crop, seed=config.seed, intermediates=intermediates)
    GanStep(config, device=torch.device("cpu"))  # refuses networks that contradict each other

    run_id = tracking.start_run(
        run_name=run_name,
        params=dataclasses.asdict(config),
        tags={"store": store_uri, "algorithm": store.algorithm},
        may_change={"steps", "checkpoint_every"},
    )
    filesystem, path = storage.resolve(storage.join(store_uri, "runs"))
    if storage.is_s3(store_uri):
        filesystem = storage.without_directories(filesystem)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "store": store_uri,
            "config": dataclasses.asdict(config),
            "intermediates": intermediates,
            "run_id": run_id,
            "board": board,
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=run_name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
        ),
    )
    try:
        result = _fit_with_progress(trainer, board, config)
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise TrainingFailed(f"run '{run_name}' stopped: {cause(error)}; resume it with --run {run_name}") from error
    assert result.checkpoint is not None and result.metrics is not None  # the last step always reports both
    with result.checkpoint.as_directory() as folder:
        generator, _ = checkpoint.checkpoint_generator(Path(folder))
    lineage = {
        "algorithm": store.algorithm,
        "store": store_uri,
        "photos": {role: store.count(role, "train") for role in shards.ROLES},
        "run": run_name,
        "mlflow_run_id": run_id,
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    checkpoint.save_bundle(bundle, generator, config, working_resolution=store.long_side, lineage=lineage)
    sheet = _sample_sheet(generator, store)
    tracking.log_image(run_id, sheet, key="input-intermediate-enhanced", step=config.steps)
    metrics = result.metrics
    return TrainResult(
        bundle=bundle,
        run_id=run_id,
        workers=workers,
        report=FitReport(**metrics["report"]),
        images_per_second=metrics["images_per_second"],
        losses_first=metrics["losses_first"],
        losses_last=metrics["losses_last"],
    )


def _fit_with_progress(trainer: TorchTrainer, board: ActorHandle, config: TrainConfig) -> ray.train.Result:
    """`trainer.fit()` in a thread, its progress shown from this one, which thereby stays open to Ctrl-C.

    In the main thread, Train would take over SIGINT and end the process in its own way.
    """
    outcome: queue.SimpleQueue[ray.train.Result | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(trainer.fit())
        except BaseException as error:  # handed to the caller below
            outcome.put(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    shown = 0
    with Progress("train", total=config.steps, unit="step") as progress:
        while True:
            try:
                result = outcome.get(timeout=_PROGRESS_SECONDS)
                break
            except queue.Empty:
                steps, metrics = ray.get(board.read.remote())
                if steps > shown:
                    note = (
                        f"L_color {metrics['loss_color']:.4f}  D(natural) {metrics['activation_natural']:.2f}  "
                        f"D(enhanced) {metrics['activation_enhanced']:.2f}"
                    )
                    progress.advance(steps - shown, note=note)
                    shown = steps
    if isinstance(result, BaseException):
        raise result
    return result


def _train_worker(job: dict[str, Any]) -> None:
    """What each DDP worker runs."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    config = TrainConfig(**job["config"])
    plan = stream.make_plan(
        shards.open_store(job["store"]),
        batch=config.batch,
        crop=config.crop,
        seed=config.seed,
        intermediates=job["intermediates"],
    )
    gan = GanStep(
        config,
        device=device,
        # Only plain all-reduces: D sees both halves in one forward, and no network has buffers.
        wrap=lambda network: ray.train.torch.prepare_model(network, move_to_device=False),
    )
    first_step = 0
    last = ray.train.get_checkpoint()
    if last is not None:
        with last.as_directory() as folder:
            first_step = checkpoint.load_checkpoint(Path(folder), gan)
    history = History(
        config,
        device=device,
        recorder=tracking.Recorder(job["run_id"]) if rank == 0 else None,
        post=(lambda steps, metrics: job["board"].post.remote(steps, metrics)) if rank == 0 else None,
    )
    batches = stream.batches(plan, rank=rank, world_size=world_size, first_step=first_step, last_step=config.steps)

    def save(steps_done: int, metrics: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if rank == 0:
                checkpoint.save_checkpoint(Path(folder), gan, step=steps_done)
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": steps_done, **metrics}, checkpoint=saved)

    report = fit(gan, batches, first_step=first_step, on_step=history.add, on_checkpoint=lambda steps: save(steps, {}))
    history.close()
    save(
        config.steps,
        {
            "report": dataclasses.asdict(report),
            "images_per_second": report.steps_per_second * config.batch,
            "losses_first": history.first.mean(),
            "losses_last": history.last.mean(),
        },
    )


def _sample_sheet(generator: ToneEnhancer, store: shards.Store) -> np.ndarray:
    """Input, intermediate and enhanced side by side, a photo a row; of photos that training did not see if there are any."""
    rows = []
    split = "test" if store.count("input", "test") else "train"
    for row in store.photos("input", split, limit=_SAMPLE_PHOTOS):
        photo, intermediate = images.decode_rgb(row["image"]), images.decode_rgb(row["intermediate"])
        with torch.inference_mode():
            enhanced = to_pixels(generator(to_tensor(photo[None], torch.device("cpu"))))[0]
        rows.append(np.hstack([_fit_height(picture) for picture in (photo, intermediate, enhanced)]))
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def _fit_height(picture: np.ndarray) -> np.ndarray:
    scale = _SAMPLE_HEIGHT / picture.shape[0]
    return cv2.resize(picture, (round(picture.shape[1] * scale), _SAMPLE_HEIGHT), interpolation=cv2.INTER_AREA)
