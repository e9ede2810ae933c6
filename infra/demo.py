"""The whole way on one machine: photos, shards, training, registry, evaluation, archive, one HTTP request, a report."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naturaltone.infra import local, samples
from naturaltone.infra.memory import PeakMemory
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.serving import registry
from naturaltone.serving.archive import job as archive
from naturaltone.serving.archive import report as archive_report
from naturaltone.serving.archive.plan import refuse_nesting
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import folder_photos
from naturaltone.serving.service import app
from naturaltone.serving.sheet.parts import make_table
from naturaltone.serving.sheet.render import render
from naturaltone.training import tracking, train
from naturaltone.training.config import TrainConfig, make_config

RECIPE, STEPS, WORKERS = "small", 1300, 2
# Many small steps teach more in three minutes than half as many of twice the size, or with the costlier loss of the recipe.
SETTINGS = [
    *("crop=128", "batch=4", "learning_rate=2e-3"),
    *("color_loss=mse", "lambda_natural=0.02", "lambda_artifact=0.1", "lambda_identity=0"),
]
# Small pictures let a crop see most of a scene, which the tone of a photo depends on, and a step take a fifth of a second.
LONG_SIDE = 192

_MARKER = ".naturaltone-demo"
_STAGES = ("start", "ingest", "train", "register", "evaluate", "enhance", "serve")
_REQUEST_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Where the demo's photos are; `unseen` is None where the store's held-out split serves as such."""

    inputs: str
    natural: str
    unseen: str | None


def run_demo(*, inputs: str | None, natural: str | None, out: Path, steps: int) -> dict[str, Any]:
    """Run every stage, write `summary.json` and `report.html` into `out`, and return the summary.

    `ValueError` before any work for folders without photos or an `out` that is not the demo's own.
    """
    if (inputs is None) != (natural is None):
        raise UserError("--inputs and --natural go together: give both, or neither for the built-in photos")
    config = make_config(RECIPE, [*SETTINGS, f"steps={steps}", f"checkpoint_every={max(1, steps // 2)}"])
    for folder in (inputs, natural):
        if folder is not None:
            if storage.is_s3(folder):
                raise UserError(f"'{folder}': the demo takes folders of this machine; `naturaltone ingest` takes s3://")
            refuse_nesting(folder, str(out))
            find_photos(folder)
    _clear(out)
    gpus = local.num_gpus()
    workers = min(WORKERS, gpus or local.cores())
    photos = _photos(inputs, natural, out)
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    with PeakMemory() as memory, contextlib.ExitStack() as running:
        with _stage("start", seconds, "object store, tracking, Ray"):
            s3 = running.enter_context(local.object_store(out / "s3"))
            tracking_uri = f"sqlite:///{out.resolve()}/mlflow.db"
            running.enter_context(
                local.environment({**s3.environment, "MLFLOW_TRACKING_URI": tracking_uri, "RAY_ADDRESS": None})
            )
            tracking.create_experiment(artifacts=out / "mlartifacts")
            running.enter_context(local.ray_session())

        store_uri = storage.join(s3.uri, "store")
        with _stage("ingest", seconds, f"photos to shards in {store_uri}, intermediates by local Laplacian"):
            ingested = {
                role: ingest.ingest(source, role=role, store=store_uri, long_side=LONG_SIDE)
                for role, source in (("input", photos.inputs), ("natural", photos.natural))
            }
            for report in ingested.values():
                _say_rejects(report)

        with _stage("train", seconds, f"{workers} DDP workers, {config.steps} steps of {config.batch} photos"):
            result = train.train(
                store_uri, config, run_name="demo", workers=workers, use_gpu=gpus > 0, bundle=out / "model"
            )

        with _stage("register", seconds, "MLflow registry"):
            version = registry.register(result.bundle, run_id=result.run_id)
            model_uri = f"models:/{tracking.MODEL_NAME}@{tracking.CHAMPION}"
            enhancer = Enhancer.load(model_uri)

        with _stage("evaluate", seconds, "photos that training never saw"):
            uris, held_out = _unseen(photos, store_uri)
            evaluation = evaluate.evaluate(enhancer, folder_photos(uris, []), held_out=held_out)
            tracking.log_evaluation(
                result.run_id,
                evaluation_report.to_metrics(evaluation),
                evaluation_report.evaluation_page("naturaltone evaluation", evaluation),
            )

        with _stage("enhance", seconds, f"the input photos as an archive, to {out / 'enhanced'}"):
            archived = archive.enhance_archive(photos.inputs, str(out / "enhanced"), enhancer)

        with _stage("serve", seconds, "Ray Serve, one POST to /v1/enhance"):
            answer = _serve_and_ask(model_uri, Path(storage.resolve(photos.inputs)[1]), out / "enhanced")
    seconds["total"] = time.perf_counter() - started

    summary = {
        "photos": {
            "inputs": ingested["input"].added,
            "natural": ingested["natural"].added,
            "rejected": sum(report.rejects.num_rows for report in ingested.values()),
            "rejects": [row for report in ingested.values() for row in report.rejects.to_pylist()],
            "built_in": photos.unseen is not None,
        },
        "train": {
            "workers": result.workers,
            "device": "GPU" if gpus else "CPU",
            "steps": config.steps,
            "images_per_second": result.images_per_second,
            "first_batch_seconds": result.report.first_batch_seconds,
            "longest_gap_seconds": result.report.longest_gap_seconds,
            "median_step_seconds": result.report.median_step_seconds,
            "losses": {"first": result.losses_first, "last": result.losses_last},
        },
        "evaluation": {
            "photos": evaluation.photos,
            "held_out": evaluation.held_out,
            "table": evaluation_report.to_json(evaluation)["table"],
        },
        "archive": {
            "enhanced": archived.counts.get(archive_report.ENHANCED, 0),
            "failed": archived.counts.get(archive_report.FAILED, 0),
            "left_alone": archived.counts.get(archive_report.SKIPPED, 0),
            "failures": {entry.source: f"{entry.reason}: {entry.detail}" for entry in archived.failures},
            "megapixels_per_second": archived.megapixels_per_second,
        },
        "serve": answer,
        "model": {
            "uri": model_uri,
            "version": version.version,
            "bundle": str(result.bundle),
            "parameters": enhancer.bundle.num_parameters,
        },
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_memory_gib": round(memory.gib, 2),
    }
    storage.write_bytes(str(out / "summary.json"), json.dumps(summary, indent=1).encode())
    storage.write_bytes(str(out / "report.html"), _report(summary, evaluation, config, out).encode())
    return summary


def format_summary(summary: dict[str, Any], out: Path) -> str:
    """The table that ends the demo, and what to try next."""
    return "\n".join(
        [*(f"{name:12} {text}" for name, text in _rows(summary)), "", "Next:", *(f"  {line}" for line in _next(out))]
    )


def _photos(inputs: str | None, natural: str | None, out: Path) -> Photos:
    if inputs is not None and natural is not None:
        return Photos(inputs=inputs, natural=natural, unseen=None)
    written = samples.write_samples(out / "photos")
    _say("No --inputs and --natural: using the real photos that scikit-image and scikit-learn carry;")
    _say("the inputs are dulled copies of some of them, so this shows the way, not what a good model can do.")
    return Photos(inputs=str(written.inputs), natural=str(written.natural), unseen=str(written.unseen))


def _clear(out: Path) -> None:
    """An empty folder with the demo's mark; anything else of the user's is refused, not deleted."""
    if out.exists():
        if not out.is_dir() or (not (out / _MARKER).exists() and any(out.iterdir())):
            raise UserError(f"--out '{out}': exists and is not a demo's; choose a new folder")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


@contextlib.contextmanager
def _stage(name: str, seconds: dict[str, float], what: str) -> Iterator[None]:
    _say(f"[{_STAGES.index(name) + 1}/{len(_STAGES)}] {name}: {what}")
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
    _say(f"      {seconds[name]:.1f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_rejects(report: ingest.IngestReport) -> None:
    for row in report.rejects.to_pylist():
        _say(f"      rejected {row['source']}: {row['reason']}: {row['detail']}")


def _unseen(photos: Photos, store_uri: str) -> tuple[list[str], bool]:
    """The photos to evaluate on, and whether training never saw them (a tiny set may have none to hold out)."""
    if photos.unseen is not None:
        return find_photos(photos.unseen), True
    store = shards.open_store(store_uri)
    held_out = store.count("input", "test") > 0
    return [row["source"] for row in store.photos("input", "test" if held_out else "train")], held_out


def _serve_and_ask(model_uri: str, inputs: Path, enhanced: Path) -> dict[str, Any]:
    """Deploy the model, send it a photo, and compare what comes back with the archive's result for that photo."""
    name = next(
        line["source"]
        for line in map(
            json.loads, (enhanced / archive_report.FOLDER / archive_report.JSON_LINES).read_text().splitlines()
        )
        if line["status"] == "enhanced"
    )
    photo = (inputs / name).read_bytes()
    with app.running(model=model_uri, host="127.0.0.1", port=local.free_port()) as address:
        request = urllib.request.Request(
            f"{address}/v1/enhance", data=photo, headers={"Content-Type": "application/octet-stream"}
        )
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
                status, version, body = response.status, response.headers["X-Model-Version"], response.read()
        except urllib.error.HTTPError as error:
            raise RunFailed(f"the service refused '{name}': HTTP {error.code} {error.read().decode()}") from None
        took = time.perf_counter() - started
    before, after, expected = (
        decode(data).pixels.astype(np.int16) for data in (photo, body, (enhanced / name).read_bytes())
    )
    if after.shape != before.shape or np.abs(after - expected).mean() > 1 or np.abs(after - before).mean() < 1:
        raise RunFailed(f"the service's answer for '{name}' is not that photo, enhanced as the archive was")
    return {"status": status, "seconds": round(took, 3), "photo": name, "model_version": version}


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
            for stage in evaluate.STAGES
        ),
        ("", f"(means over {measured['photos']} {seen})"),
        (
            "archive",
            f"{archived['enhanced']} enhanced, {archived['left_alone']} left alone, {archived['failed']} failed, "
            f"{archived['megapixels_per_second']:.1f} MP/s",
        ),
        ("serve", f"HTTP {served['status']} in {served['seconds']:.2f} s"),
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


def _report(summary: dict[str, Any], evaluation: evaluate.Evaluation, config: TrainConfig, out: Path) -> str:
    losses = summary["train"]["losses"]
    return render(
        "demo.html",
        title="naturaltone demo",
        view=evaluation_report.make_view(evaluation),
        done=make_table(["", ""], [[name, text] for name, text in _rows(summary) if name], numbers=False),
        steps=config.steps,
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
