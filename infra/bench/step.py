"""Times a training step under Ray Train, fed by the stream, beside the bare step on batches in memory."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from naturaltone.infra import local
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import Batch, read_samples
from naturaltone.training import allocator, tracking
from naturaltone.training.config import TrainConfig
from naturaltone.training.loop import FitReport, fit
from naturaltone.training.step import GanStep
from naturaltone.training.train import train

_BATCHES = 4  # different batches that the bare step cycles through
_MATRIX = 8192  # rows and columns


def bench_step(
    photos: str, config: TrainConfig, *, long_side: int, steps: int, rounds: int, bare: bool
) -> dict[str, Any]:
    """Train on the folder `photos`: `steps` steps for each contender and round. Returns a dict of figures.

    long_side: of the stored photos, in pixels. bare: time only the bare step.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder, local.ray_session():
        store = f"{folder}/store"
        for role in shards.ROLES:
            ingest.ingest(photos, role=role, store=store, long_side=long_side)
        plan = make_plan(shards.open_store(store), batch=config.batch, crop=config.crop, seed=config.seed)
        batches = [
            read_samples(plan, np.arange(config.batch * number, config.batch * (number + 1)))
            for number in range(_BATCHES)
        ]
        alone, under_ray = [], []
        for number in range(rounds):
            alone.append(_bare(config, device, batches, steps))
            if not bare:
                under_ray.append(_under_ray(config, store, steps, folder=Path(folder), name=f"bench-{number}"))
        if under_ray:  # once more, so that each round under Ray stands between two bare rounds
            alone.append(_bare(config, device, batches, steps))
    seconds = statistics.median(report.steady_step_seconds for report in alone)
    flops = count_flops(config, batches[0])
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "batch": config.batch,
        "crop": config.crop,
        "bare_step_seconds": seconds,
        "bare_images_per_second": config.batch / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / matrix_flops(device) if device.type == "cuda" else None,
    }
    if under_ray:
        streamed = statistics.median(report.steady_step_seconds for report in under_ray)
        # Compare each round with the bare rounds before and after it: the machine's speed changes by more than the overhead.
        ratios = [
            2 * ours.steady_step_seconds / (before.steady_step_seconds + after.steady_step_seconds)
            for ours, before, after in zip(under_ray, alone, alone[1:], strict=False)
        ]
        figures |= {
            "step_seconds": streamed,
            "images_per_second": config.batch / streamed,
            "overhead": statistics.median(ratios) - 1,
            "overheads": [ratio - 1 for ratio in ratios],
            "longest_gap_seconds": max(report.longest_gap_seconds for report in under_ray),
        }
    return figures


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"{'':16}{'s/step':>10}{'images/s':>10}   (batch {figures['batch']}, crop {figures['crop']}, {figures['device']})"
    ]
    lines.append(f"{'bare':16}{figures['bare_step_seconds']:>10.4f}{figures['bare_images_per_second']:>10.1f}")
    if "overhead" in figures:
        lines.append(f"{'Ray + stream':16}{figures['step_seconds']:>10.4f}{figures['images_per_second']:>10.1f}")
        lines.append(
            f"overhead {100 * figures['overhead']:.1f}%, longest wait for a batch {figures['longest_gap_seconds']:.2f} s"
        )
    rate = "" if figures["mfu"] is None else f", {100 * figures['mfu']:.0f}% of the measured bf16 matrix rate"
    lines.append(f"{figures['tflops']:.3f} TFLOP/s{rate}")
    return "\n".join(lines)


def count_flops(config: TrainConfig, batch: Batch) -> int:
    """Count the floating point operations of one step: matrix products and convolutions, forward and backward."""
    gan = GanStep(config, device=torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        gan.step(batch, number=0)
    return counter.get_total_flops()


def matrix_flops(device: torch.device) -> float:
    """Measure the operations a second of a large bf16 matrix product. It is the peak rate that `mfu` refers to."""
    left, right = (torch.randn(_MATRIX, _MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(2 * _MATRIX**3 / statistics.median(seconds))


def _bare(config: TrainConfig, device: torch.device, batches: list[Batch], steps: int) -> FitReport:
    torch.set_num_threads(local.cores())
    allocator.keep_freed_memory()
    return fit(
        GanStep(config, device=device),
        itertools.islice(itertools.cycle(batches), steps),
        first_step=0,
        on_step=lambda *_: None,
        on_checkpoint=lambda _: None,
    )


def _under_ray(config: TrainConfig, store: str, steps: int, *, folder: Path, name: str) -> FitReport:
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/{name}.db"}):
        tracking.create_experiment(artifacts=folder / "artifacts")
        return train(
            store,
            dataclasses.replace(config, steps=steps),
            run_name=name,
            workers=1,
            use_gpu=torch.cuda.is_available(),
            bundle=folder / name,
        ).report
