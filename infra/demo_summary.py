"""The results of the demo: numbers for scripts, a table for the terminal, and an HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naturaltone.pipeline.dataset.ingest import IngestReport
from naturaltone.serving.archive.job import Summary
from naturaltone.serving.archive.report import ENHANCED, FAILED, SKIPPED
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import STAGES, Evaluation
from naturaltone.serving.evaluation.report import make_view, to_json
from naturaltone.serving.sheet.parts import make_table
from naturaltone.serving.sheet.render import render
from naturaltone.training.config import TrainConfig
from naturaltone.training.model_registry import CHAMPION_URI
from naturaltone.training.train import TrainResult


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of the service to one photo. photo: its name. seconds: between request and answer."""

    status: int
    seconds: float
    photo: str
    model_version: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of each stage of the demo. built_in: the demo used its own photos. answer: None if it sent no photo."""

    built_in: bool
    ingested: dict[str, IngestReport]
    config: TrainConfig
    uses_gpu: bool
    trained: TrainResult
    version: str
    enhancer: Enhancer
    evaluation: Evaluation
    archived: Summary
    answer: Answer | None
    seconds: dict[str, float]
    peak_memory_gib: float


def summarize(outcome: Outcome) -> dict[str, Any]:
    """The numbers as a dict that `json` can write."""
    ingested, trained, archived = outcome.ingested, outcome.trained, outcome.archived
    return {
        "photos": {
            "inputs": ingested["input"].added,
            "natural": ingested["natural"].added,
            "rejected": sum(report.rejects.num_rows for report in ingested.values()),
            "rejects": [row for report in ingested.values() for row in report.rejects.to_pylist()],
            "built_in": outcome.built_in,
        },
        "train": {
            "workers": trained.workers,
            "device": "GPU" if outcome.uses_gpu else "CPU",
            "steps": outcome.config.steps,
            "images_per_second": trained.images_per_second,
            "first_batch_seconds": trained.report.first_batch_seconds,
            "longest_gap_seconds": trained.report.longest_gap_seconds,
            "median_step_seconds": trained.report.median_step_seconds,
            "losses": {"first": trained.losses_first, "last": trained.losses_last},
        },
        "evaluation": {
            "photos": outcome.evaluation.photos,
            "held_out": outcome.evaluation.held_out,
            "table": to_json(outcome.evaluation)["table"],
        },
        "archive": {
            "enhanced": archived.counts.get(ENHANCED, 0),
            "failed": archived.counts.get(FAILED, 0),
            "left_alone": archived.counts.get(SKIPPED, 0),
            "failures": {entry.source: f"{entry.reason}: {entry.detail}" for entry in archived.failures},
            "megapixels_per_second": archived.megapixels_per_second,
        },
        "serve": vars(outcome.answer) | {"seconds": round(outcome.answer.seconds, 3)} if outcome.answer else None,
        "model": {
            "uri": CHAMPION_URI,
            "version": outcome.version,
            "bundle": str(trained.bundle),
            "parameters": outcome.enhancer.bundle.num_parameters,
        },
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "peak_memory_gib": round(outcome.peak_memory_gib, 2),
    }


def format_summary(summary: dict[str, Any], out: Path) -> str:
    """The table that the demo prints at its end, and the commands to try next."""
    return "\n".join(
        [*(f"{name:12} {text}" for name, text in _rows(summary)), "", "Next:", *(f"  {line}" for line in _next(out))]
    )


def demo_page(summary: dict[str, Any], outcome: Outcome, out: Path) -> str:
    """An HTML page with sliders, the table, the losses and the commands to try next."""
    losses = summary["train"]["losses"]
    return render(
        "demo.html",
        title="naturaltone demo",
        view=make_view(outcome.evaluation),
        done=make_table(["", ""], [[name, text] for name, text in _rows(summary) if name], numbers=False),
        steps=outcome.config.steps,
        losses=make_table(
            ["", "first", "last"],
            [
                [name, *(f"{losses[part].get(name, float('nan')):.4f}" for part in ("first", "last"))]
                for name in losses["last"]
            ],
        ),
        rejects=make_table(
            ["photo", "reason", "detail"],
            [[row["source"], row["reason"], row["detail"]] for row in summary["photos"]["rejects"]],
            numbers=False,
        ),
        commands="\n".join(_next(out)),
    )


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    photos, trained, losses = summary["photos"], summary["train"], summary["train"]["losses"]
    table, measured, archived = summary["evaluation"]["table"], summary["evaluation"], summary["archive"]
    seen = "unseen photos" if measured["held_out"] else "training photos (too few to hold any out)"
    served, model, seconds = summary["serve"], summary["model"], summary["seconds"]
    return [
        ("photos", f"{photos['inputs']} inputs, {photos['natural']} natural, {photos['rejected']} rejected"),
        (
            "train",
            f"{trained['workers']} workers on {trained['device']}, {trained['steps']} steps, "
            f"{trained['images_per_second']:.1f} photos/s, L_color {losses['first']['loss_color']:.4f} -> "
            f"{losses['last']['loss_color']:.4f}",
        ),
        *(
            (
                stage,
                f"local contrast x{table[stage]['local_contrast_gain']:.2f}, "
                f"clipped {100 * table[stage]['clipped_fraction']:.1f}%, "
                f"TMQI naturalness {table[stage]['naturalness']:.3f}",
            )
            for stage in STAGES
        ),
        ("", f"(means over {measured['photos']} {seen})"),
        (
            "archive",
            f"{archived['enhanced']} enhanced, {archived['left_alone']} left alone, {archived['failed']} failed, "
            f"{archived['megapixels_per_second']:.1f} MP/s",
        ),
        (
            "serve",
            f"HTTP {served['status']} in {served['seconds']:.2f} s"
            if served
            else "no photo to send: all are left alone",
        ),
        ("model", f"{model['uri']} version {model['version']}, {model['parameters']:,} parameters"),
        ("time", f"{seconds['total']:.0f} s, peak memory {summary['peak_memory_gib']:.1f} GiB"),
    ]


def _next(out: Path) -> list[str]:
    return [
        f"open {out / 'report.html'}",
        f"naturaltone enhance MY-PHOTOS ENHANCED --model {out / 'model'}",
        f"naturaltone evaluate {out / 'model'} MY-PHOTOS --sheet sheet.html",
        f"naturaltone serve --model {out / 'model'}",
        "naturaltone ingest MY-PHOTOS --role input --to STORE   (and --role natural), then naturaltone train STORE",
    ]
