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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from naturaltone.infra import local
from naturaltone.infra.demo_photos import write_demo_photos
from naturaltone.infra.demo_summary import Answer, Outcome, demo_page, summarize
from naturaltone.infra.memory import PeakMemory
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving import registry
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.plan import refuse_nesting
from naturaltone.serving.archive.report import ENHANCED, FOLDER, JSON_LINES
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import Evaluation, evaluate
from naturaltone.serving.evaluation.photos import folder_photos
from naturaltone.serving.evaluation.report import evaluation_page, to_metrics
from naturaltone.serving.service import app
from naturaltone.training import tracking, train
from naturaltone.training.config import make_config

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

    `UserError` before any work for folders without photos or an `out` that is not the demo's own.
    """
    config = make_config(RECIPE, [*SETTINGS, f"steps={steps}", f"checkpoint_every={max(1, steps // 2)}"])
    _check(inputs, natural, out)
    _clear(out)
    gpus = local.num_gpus()
    workers = min(WORKERS, gpus or local.cores())
    photos = _photos(inputs, natural, out)
    clock = _Clock()
    with PeakMemory() as memory, contextlib.ExitStack() as running:
        with clock.stage("start", "object store, tracking, Ray"):
            store = storage.join(_start(running, out), "store")
        with clock.stage("ingest", f"photos to shards in {store}, intermediates by local Laplacian"):
            ingested = _ingest(photos, store)
        with clock.stage("train", f"{workers} DDP workers, {config.steps} steps of {config.batch} photos"):
            trained = train.train(
                store, config, run_name="demo", workers=workers, use_gpu=gpus > 0, bundle=out / "model"
            )
        with clock.stage("register", "MLflow registry"):
            version = registry.register(trained.bundle, run_id=trained.run_id)
            enhancer = Enhancer.load(tracking.CHAMPION_URI)
        with clock.stage("evaluate", "photos that training never saw"):
            evaluation = _evaluate(enhancer, photos, store, trained.run_id)
        with clock.stage("enhance", f"the input photos as an archive, to {out / 'enhanced'}"):
            archived = enhance_archive(photos.inputs, str(out / "enhanced"), enhancer)
        with clock.stage("serve", "Ray Serve, one POST to /v1/enhance"):
            answer = _serve_and_ask(enhancer, photos, out / "enhanced")
    outcome = Outcome(
        built_in=photos.unseen is not None,
        ingested=ingested,
        config=config,
        uses_gpu=gpus > 0,
        trained=trained,
        version=version.version,
        enhancer=enhancer,
        evaluation=evaluation,
        archived=archived,
        answer=answer,
        seconds=clock.seconds | {"total": time.perf_counter() - clock.started},
        peak_memory_gib=memory.gib,
    )
    summary = summarize(outcome)
    storage.write_bytes(str(out / "summary.json"), json.dumps(summary, indent=1).encode())
    storage.write_bytes(str(out / "report.html"), demo_page(summary, outcome, out).encode())
    return summary


def _check(inputs: str | None, natural: str | None, out: Path) -> None:
    if (inputs is None) != (natural is None):
        raise UserError("--inputs and --natural go together: give both, or neither for the built-in photos")
    for folder in (inputs, natural):
        if folder is not None:
            if storage.is_s3(folder):
                raise UserError(f"'{folder}': the demo takes folders of this machine; `naturaltone ingest` takes s3://")
            refuse_nesting(folder, str(out))
            find_photos(folder)


def _clear(out: Path) -> None:
    """An empty folder with the demo's mark; anything else of the user's is refused, not deleted."""
    if out.exists():
        if not out.is_dir() or (not (out / _MARKER).exists() and any(out.iterdir())):
            raise UserError(f"--out '{out}': exists and is not a demo's; choose a new folder")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def _photos(inputs: str | None, natural: str | None, out: Path) -> Photos:
    if inputs is not None and natural is not None:
        return Photos(inputs=inputs, natural=natural, unseen=None)
    written = write_demo_photos(out / "photos")
    _say("No --inputs and --natural: using the real photos that scikit-image and scikit-learn carry;")
    _say("the inputs are dulled copies of some of them, so this shows the way, not what a good model can do.")
    return Photos(inputs=str(written.inputs), natural=str(written.natural), unseen=str(written.unseen))


def _start(running: contextlib.ExitStack, out: Path) -> str:
    """Start an object store, a tracking database and Ray; returns the object store's URI."""
    s3 = running.enter_context(local.object_store(out / "s3"))
    tracking_uri = f"sqlite:///{out.resolve()}/mlflow.db"
    running.enter_context(
        local.environment({**s3.environment, "MLFLOW_TRACKING_URI": tracking_uri, "RAY_ADDRESS": None})
    )
    tracking.create_experiment(artifacts=out / "mlartifacts")
    running.enter_context(local.ray_session())
    return s3.uri


def _ingest(photos: Photos, store: str) -> dict[str, ingest.IngestReport]:
    """Ingest both roles; the report of each."""
    reports = {}
    for role, source in (("input", photos.inputs), ("natural", photos.natural)):
        reports[role] = ingest.ingest(source, role=role, store=store, long_side=LONG_SIDE)
        for row in reports[role].rejects.to_pylist():
            _say(f"      rejected {row['source']}: {row['reason']}: {row['detail']}")
    return reports


def _evaluate(enhancer: Enhancer, photos: Photos, store: str, run_id: str) -> Evaluation:
    uris, held_out = _unseen(photos, store)
    evaluation = evaluate(enhancer, folder_photos(uris, []), held_out=held_out)
    page = evaluation_page("naturaltone evaluation", evaluation)
    tracking.log_evaluation(run_id, to_metrics(evaluation), page)
    return evaluation


def _unseen(photos: Photos, store_uri: str) -> tuple[list[str], bool]:
    """The photos to evaluate on, and whether training never saw them (a tiny set may have none to hold out)."""
    if photos.unseen is not None:
        return find_photos(photos.unseen), True
    store = shards.open_store(store_uri)
    held_out = store.count("input", "test") > 0
    return [row["source"] for row in store.photos("input", "test" if held_out else "train")], held_out


def _serve_and_ask(enhancer: Enhancer, photos: Photos, enhanced: Path) -> Answer | None:
    """Deploy the model, send it a photo, and compare the answer with what the archive or the enhancer makes of that photo.

    None if there is no photo to send, since all of them are left alone.
    """
    name, photo, expected = _photo_to_send(enhancer, photos, enhanced)
    if photo is None:
        return None
    with app.running(model=tracking.CHAMPION_URI, host="127.0.0.1", port=local.free_port()) as address:
        request = urllib.request.Request(
            f"{address}/v1/enhance", data=photo, headers={"Content-Type": "application/octet-stream"}
        )
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
                status, version, body = response.status, response.headers["X-Model-Version"], response.read()
        except urllib.error.HTTPError as error:
            raise RunFailed(f"the service refused '{name}': HTTP {error.code} {error.read().decode()}") from None
        seconds = time.perf_counter() - started
    before, after, wanted = (decode(data).pixels.astype(np.int16) for data in (photo, body, expected))
    if after.shape != before.shape or np.abs(after - wanted).mean() > 1 or np.abs(after - before).mean() < 1:
        raise RunFailed(f"the service's answer for '{name}' is not that photo, enhanced as the archive was")
    return Answer(status=status, seconds=seconds, photo=name, model_version=version)


def _photo_to_send(enhancer: Enhancer, photos: Photos, enhanced: Path) -> tuple[str, bytes | None, bytes]:
    """The name and bytes of an input that the archive enhanced, else of a natural photo, and what the service is to answer."""
    with open(enhanced / FOLDER / JSON_LINES) as lines:
        done = (row["source"] for row in map(json.loads, lines) if row["status"] == ENHANCED)
        name = next(done, None)
    if name is not None:
        return name, (Path(storage.resolve(photos.inputs)[1]) / name).read_bytes(), (enhanced / name).read_bytes()
    for uri in find_photos(photos.natural):
        data = storage.read_bytes(uri)
        with contextlib.suppress(ImageError):
            check_rewritable(data)
            return uri, data, enhancer.enhance_file(data).data
    return "", None, b""


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """How long each stage took, in seconds, and all together."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        _say(f"[{_STAGES.index(name) + 1}/{len(_STAGES)}] {name}: {what}")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        _say(f"      {self.seconds[name]:.1f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
