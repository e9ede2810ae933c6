"""The edge to Ray Train: DDP workers run the step on the stream's batches. If killed, they restart from the last checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import RunFailed, UserError, cause
from naturaltone.pipeline.lease import Lease
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.s3_filesystem import without_directories
from naturaltone.pipeline.stream.batches import read_batches
from naturaltone.pipeline.stream.plan import lanes, make_plan
from naturaltone.training import allocator, checkpoint, figures, runs, tracking
from naturaltone.training.board import Board, Newest
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.history import History
from naturaltone.training.loop import FitReport, Metrics, fit
from naturaltone.training.measures import niqe
from naturaltone.training.recorder import Recorder
from naturaltone.training.runs import CheckpointLost, CheckpointWriter
from naturaltone.training.step import GanStep, TrainingDiverged
from naturaltone.training.validation import ValidationPhotos

T = TypeVar("T")
log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0
_MAX_FAILURES = 3  # how many lost workers a run survives by itself
# One for the worker and one for its stream, reserved together. Otherwise Train takes all CPUs of a cluster that has shrunk,
# and the stream has none to read with.
_WORKER_CPUS = 2
_NIQE_PHOTOS = 300
# Errors of a worker that are no bugs of ours: a server, a disk, the network or the memory failed.
_NO_BUGS = (OSError, RunFailed, UserError, MemoryError, torch.OutOfMemoryError, torch.distributed.DistError)


class TrainingFailed(RunFailed):
    """The run stopped before its end. The same command with the same run name resumes it from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: its model bundle, its MLflow run, its speed and its losses.

    losses_first, losses_last: means over the first and the last fifth of the steps; empty if those ran before a resume.
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
    workers: int | tuple[int, int],
    use_gpu: bool,
    bundle: Path,
    intermediates: str | None = None,
    beside: str | None = None,
    start: Callable[[], Snapshot] | None = None,
    lineage: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train on the store with `workers` DDP workers and write the model bundle to the folder `bundle`.

    The same `run_name` resumes the run, on the store as it was when the run began. workers: a number, or the fewest and the
    most that Ray may use. intermediates: `cached` or `stream`, see `naturaltone.pipeline.stream.plan.make_plan`; both give
    the same pixels. beside, start: see `runs.begin`. lineage: what else the bundle tells of its origin. `UserError` before any
    work for a wrong store, name or configuration, `TrainingFailed` if the run itself fails.
    """
    store_uri = storage.absolute(store_uri)
    check(store_uri, config, workers=workers, intermediates=intermediates)
    with runs.hold(store_uri, run_name) as lease:
        run = runs.begin(store_uri, run_name, config, beside=beside, start=start)
        run_id = tracking.start_run(
            run_name=run_name,
            params=dataclasses.asdict(config),
            tags={"store": store_uri, "algorithm": run.store.algorithm},
            dataset=storage.join(run.uri, shards.MANIFEST),
        )
        # On this process's node, like Train's controller: an actor on another node is lost if that node is.
        beside_driver = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        board = ray.remote(num_cpus=0, label_selector=beside_driver)(Board).remote()
        job = {
            "store": store_uri,
            "run": run_name,
            "config": dataclasses.asdict(config),
            "intermediates": intermediates,
            "run_id": run_id,
            "tracking_uri": tracking.tracking_uri(),
            "board": board,
        }
        trainer = _trainer(job, workers=workers, use_gpu=use_gpu)
        with tracking.running(run_id):
            try:
                outcome = _fit_with_progress(trainer, board, run_name, config, lease).return_value  # rank 0's
            except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
                if bug := _bug_in(error):
                    raise bug from error
                raise TrainingFailed(
                    f"run '{run_name}' stopped: {cause(error)}; resume it with --run {run_name}"
                ) from error
            if "untracked" in outcome:
                log.warning("run '%s': %s", run_name, outcome["untracked"])
            if "stopped" in outcome:
                raise TrainingFailed(f"run '{run_name}' stopped: {outcome['stopped']}; resume it with --run {run_name}")
        figures.show_steps(run_name, *ray.get(board.read.remote()))
        figures.show_end(run_name, steps=config.steps)
        lease.check()
        snapshot = runs.read_checkpoint(run.uri, config.steps)
        manifest = storage.read_bytes(storage.join(run.uri, shards.MANIFEST))
        origin = {
            "run": run_name,
            "mlflow_run_id": run_id,
            "manifest": hashlib.sha256(manifest).hexdigest(),
            **tracking.revision(),
            **(lineage or {}),
        }
        write_bundle(bundle, snapshot, run.store, **origin)
    return TrainResult(
        bundle=bundle,
        run_id=run_id,
        workers=outcome["workers"],
        report=FitReport(**outcome["report"]),
        images_per_second=outcome["images_per_second"],
        losses_first=outcome["losses_first"],
        losses_last=outcome["losses_last"],
    )


def _trainer(job: dict[str, Any], *, workers: int | tuple[int, int], use_gpu: bool) -> TorchTrainer:
    """Ray Train's trainer for a job. It keeps its own state in the run's folder."""
    filesystem, path = storage.resolve(storage.join(job["store"], shards.RUNS))
    if storage.is_s3(job["store"]):
        filesystem = without_directories(filesystem)
    return TorchTrainer(
        _train_worker,
        train_loop_config=job,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": _WORKER_CPUS}
        ),
        run_config=ray.train.RunConfig(
            name=job["run"],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
            worker_runtime_env={"env_vars": allocator.KEEP_ENVIRONMENT},
        ),
    )


def check(
    store_uri: str, config: TrainConfig, *, workers: int | tuple[int, int], intermediates: str | None = None
) -> None:
    """Raise `UserError` for what `train` cannot do, before Ray starts."""
    store = shards.open_store(storage.absolute(store_uri))
    most = workers if isinstance(workers, int) else workers[1]
    if config.batch < most:
        raise UserError(f"batch={config.batch} cannot be shared by {most} workers; set batch to at least {most}")
    if config.crop > store.long_side:
        raise UserError(
            f"crop={config.crop}: the photos of '{store_uri}' have at most {store.long_side} pixels a side; "
            "set a smaller crop, or ingest with a larger --long-side"
        )
    make_plan(store, batch=config.batch, crop=config.crop, seed=config.seed, intermediates=intermediates)
    GanStep(config, device=torch.device("cpu"))  # refuses networks that contradict each other


def write_bundle(folder: Path, snapshot: Snapshot, store: shards.Store, **lineage: str) -> None:
    """Write the model bundle of a snapshot: the average of G, its lineage, and NIQE's model of the natural photos."""
    photos = (decode_rgb(row["image"]) for row in store.photos("natural", "train", limit=_NIQE_PHOTOS))
    try:
        natural_model = niqe.fit(photos)
    except ValueError:  # the photos are too few or too small: the evaluation says that there is no NIQE, and why
        natural_model = None
    checkpoint.save_bundle(
        folder,
        snapshot.generator(),
        snapshot.config,
        working_resolution=store.long_side,
        lineage={
            "algorithm": store.algorithm,
            "store": store.uri,
            "photos": {role: store.count(role, "train") for role in shards.ROLES},
            "trained": datetime.now(UTC).isoformat(timespec="seconds"),
            **lineage,
        },
        natural_model=natural_model,
    )


def _fit_with_progress(
    trainer: TorchTrainer, board: ActorHandle, run_name: str, config: TrainConfig, lease: Lease
) -> ray.train.Result:
    """Run `trainer.fit()` in another thread and show its progress from this one, so that Ctrl-C works.

    In the main thread, Train would handle SIGINT itself and end the process in its own way.
    """
    outcome: queue.SimpleQueue[ray.train.Result | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(trainer.fit())
        except BaseException as error:  # handed to the caller below
            outcome.put(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    figures.show_start(run_name, steps=config.steps)
    shown = 0
    seen: Newest = (0, {})
    with Progress("train", total=config.steps, unit="step") as progress:
        while True:
            try:
                result = outcome.get(timeout=_PROGRESS_SECONDS)
                break
            except queue.Empty:
                lease.check_not_taken()
                newest = ray.get(board.read.remote())
                if newest != seen:  # also a step that is done again, after a worker was lost
                    seen = newest
                    figures.show_steps(run_name, *newest)
                steps, metrics = newest
                if steps > shown:
                    progress.advance(steps - shown, note=_note(metrics))
                    shown = steps
    if isinstance(result, BaseException):
        raise result
    return result


def _bug_in(error: Exception) -> Exception | None:
    """The exception of a worker that is a bug of ours; None if the worker, its machine or a server failed."""
    failures = list(error.worker_failures.values()) if isinstance(error, ray.train.WorkerGroupError) else []
    if any(type(failure).__module__.split(".")[0] == "ray" for failure in failures):
        return None  # a worker was lost, and the other workers fail because of that
    # Gloo raises a plain RuntimeError when it loses a connection.
    bugs = [each for each in failures if not isinstance(each, _NO_BUGS) and "gloo" not in str(each).lower()]
    return bugs[0] if bugs else None


def _note(metrics: Metrics) -> str:
    """The metrics that say how a GAN is doing. A λ of 0 leaves some out."""
    shown = {
        "loss_color": "L_color {:.4f}",
        "activation_natural": "D(natural) {:.2f}",
        "activation_enhanced": "D(enhanced) {:.2f}",
    }
    note = "  ".join(text.format(metrics[name]) for name, text in shown.items() if name in metrics)
    if metrics.get("discriminator_saturated"):
        note += "  D is saturated: G learns nothing from it; lower discriminator_learning_rate"
    return note


def _train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run one DDP worker; return how the run went, or why it stopped."""
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    config = TrainConfig(**job["config"])
    run = runs.open_run(job["store"], job["run"])
    plan = make_plan(
        run.store, batch=config.batch, crop=config.crop, seed=config.seed, intermediates=job["intermediates"]
    )
    gan = GanStep(
        config,
        device=device,
        # DDP needs only plain all-reduces: D sees both halves in one forward pass, and no network has buffers.
        wrap=lambda network: ray.train.torch.prepare_model(network, move_to_device=False),
        workers=workers,
    )
    # Rank 0 looks for all ranks. If each looked, the last checkpoint of a killed worker could become whole between two looks,
    # and the ranks would start from different steps.
    newest = _from_rank_0(lambda: runs.newest_checkpoint(run.uri))
    if newest is not None:
        checkpoint.restore(runs.read_checkpoint(run.uri, newest), gan)
    first_step = newest or 0
    recorder = Recorder(job["run_id"], tracking_uri=job["tracking_uri"]) if rank == 0 else None
    writer = _writer(run, recorder) if recorder else None
    history = History(
        config,
        device=device,
        share=len(lanes(config.batch, rank, workers)) * workers / config.batch,
        recorder=recorder,
        post=(lambda steps, metrics: job["board"].post.remote(steps, metrics)) if rank == 0 else None,
    )
    batches = read_batches(
        plan,
        rank=rank,
        world_size=workers,
        first_step=first_step,
        last_step=config.steps,
        reserved=device.type == "cpu",
    )

    def save(steps_done: int) -> None:
        check_ranks_agree(gan)
        _together(lambda: writer.put(checkpoint.take_snapshot(gan, step=steps_done)) if writer else None)

    outcome: dict[str, Any] = {"workers": workers}
    try:
        report = fit(gan, batches, first_step=first_step, on_step=history.add, on_checkpoint=save)
        if report.steps:
            save(config.steps)
        _together(lambda: writer.close() if writer else None)
        outcome |= {
            "report": dataclasses.asdict(report),
            "images_per_second": report.steps_per_second * config.batch,
        }
    except (TrainingDiverged, CheckpointLost) as error:  # on all ranks alike; another try would end the same way
        outcome["stopped"] = str(error)
    history.close()  # averages over the workers, so every rank must come here
    if recorder and recorder.problem:
        outcome["untracked"] = recorder.problem
    return outcome | {"losses_first": history.first.mean(), "losses_last": history.last.mean()}


def _writer(run: runs.Run, recorder: Recorder) -> CheckpointWriter:
    """A writer of checkpoints that judges each on a few photos and sends their pictures to the tracking server.

    Training does not see these photos if the store holds any out.
    """
    validation = ValidationPhotos.of(run.store)

    def judge(snapshot: Snapshot) -> float:
        judgement = validation.judge(snapshot.generator())
        recorder.log_image(snapshot.step, judgement.sheet, key="input-intermediate-enhanced")
        recorder.log(snapshot.step, {"sample_naturalness": judgement.naturalness})
        return judgement.naturalness

    return CheckpointWriter(run.uri, judge=judge)


def _from_rank_0(look: Callable[[], T]) -> T:
    """Call `look` on rank 0 and return its result on every rank."""
    rank = ray.train.get_context().get_world_rank()
    return ray.train.collective.broadcast_from_rank_zero(look() if rank == 0 else None)


def _together(act: Callable[[], None]) -> None:
    """Call `act` on rank 0. If it loses a checkpoint, every rank raises `CheckpointLost`, so none waits for rank 0 for ever."""

    def failure() -> str | None:
        try:
            act()
        except CheckpointLost as error:
            return str(error)
        return None

    lost = _from_rank_0(failure)
    if lost is not None:
        raise CheckpointLost(lost)


def check_ranks_agree(gan: GanStep) -> None:
    """Check that all ranks have the same weights, to the bit.

    If not, DDP has been wrong for some time. `RuntimeError` names the first parameter that differs.
    """
    if not torch.distributed.is_initialized():
        return
    weights = {f"{name}.{key}": weight for name, net in gan.networks.items() for key, weight in net.named_parameters()}
    weights |= {f"average of generator.{key}": weight for key, weight in gan.ema.named_parameters()}
    # Compare sums of the bits as integers, which are exact in any order.
    own = torch.stack([weight.detach().contiguous().view(torch.int32).sum() for weight in weights.values()])
    first = own.clone()
    torch.distributed.broadcast(first, src=0)
    differs = (own != first).to(torch.int32)
    torch.distributed.all_reduce(differs)
    if differs.any():
        names = [name for name, other in zip(weights, differs.tolist(), strict=True) if other]
        raise RuntimeError(f"the workers' weights differ: {names[0]} and {len(names) - 1} more; report this bug")
