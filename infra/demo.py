"""The demo: runs every step on one machine, from photos to a trained model, an enhanced archive and a report."""

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
from naturaltone.serving.archive.names import from_text
from naturaltone.serving.archive.plan import refuse_nesting
from naturaltone.serving.archive.report import ENHANCED, FOLDER, JSON_LINES
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import Evaluation, evaluate
from naturaltone.serving.evaluation.photos import folder_photos
from naturaltone.serving.evaluation.report import evaluation_page, to_metrics
from naturaltone.serving.service import app
from naturaltone.training import model_registry, tracking, train
from naturaltone.training.config import make_config

RECIPE, STEPS, WORKERS = "small", 1300, 2
# In three minutes, many small steps teach more than half as many steps of twice the size, or with the recipe's costlier loss.
SETTINGS = [
    *("crop=128", "batch=4", "learning_rate=2e-3"),
    *("color_loss=mse", "lambda_natural=0.02", "lambda_artifact=0.1", "lambda_identity=0"),
]
# The tone of a photo depends on the whole scene. With photos this small, a crop shows most of it, and a step takes 0.2 s.
LONG_SIDE = 192

_MARKER = ".naturaltone-demo"
_STAGES = ("start", "ingest", "train", "register", "evaluate", "enhance", "serve")
_REQUEST_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Photos:
    """The folders of the photos. unseen: photos that training never sees; None to use the held-out photos of the store."""

    inputs: str
    natural: str
    unseen: str | None


def run_demo(*, inputs: str | None, natural: str | None, out: Path, steps: int) -> dict[str, Any]:
    """Run every stage, write `summary.json` and `report.html` into `out`, and return the summary.

    Raises `UserError` before any work if a folder holds no photos, or if `out` exists and no demo wrote it.
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
            enhancer = Enhancer.load(model_registry.CHAMPION_URI)
        with clock.stage("evaluate", "held-out photos, or training photos if there are too few to hold any out"):
            evaluation = _evaluate(enhancer, photos, store, trained.run_id)
        with clock.stage("enhance", f"all input photos, as an archive, into {out / 'enhanced'}"):
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
    """Make `out` an empty folder with the demo's marker file. Refuse, and do not delete, a folder without the marker."""
    if out.exists():
        if not out.is_dir() or (not (out / _MARKER).exists() and any(out.iterdir())):
            raise UserError(f"--out '{out}': exists, and no demo wrote it; choose a new folder")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def _photos(inputs: str | None, natural: str | None, out: Path) -> Photos:
    if inputs is not None and natural is not None:
        return Photos(inputs=inputs, natural=natural, unseen=None)
    written = write_demo_photos(out / "photos")
    _say("No --inputs and --natural given: the demo uses real photos from scikit-image and scikit-learn.")
    _say("Its inputs are dulled copies of these photos, so it shows how the steps work, not what a good model can do.")
    return Photos(inputs=str(written.inputs), natural=str(written.natural), unseen=str(written.unseen))


def _start(running: contextlib.ExitStack, out: Path) -> str:
    """Start an object store, a tracking database and Ray; returns the URI of the object store."""
    s3 = running.enter_context(local.object_store(out / "s3"))
    tracking_uri = f"sqlite:///{out.resolve()}/mlflow.db"
    running.enter_context(
        local.environment({**s3.environment, "MLFLOW_TRACKING_URI": tracking_uri, "RAY_ADDRESS": None})
    )
    tracking.create_experiment(artifacts=out / "mlartifacts")
    running.enter_context(local.ray_session())
    return s3.uri


def _ingest(photos: Photos, store: str) -> dict[str, ingest.IngestReport]:
    """Ingest both roles; returns the report of each."""
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
    tracking.log_evaluation(run_id, to_metrics(evaluation), {"evaluation.html": page})
    return evaluation


def _unseen(photos: Photos, store_uri: str) -> tuple[list[str], bool]:
    """The URIs of the photos to evaluate on, and whether they were held out. A tiny set may have no held-out photo."""
    if photos.unseen is not None:
        return find_photos(photos.unseen), True
    store = shards.open_store(store_uri)
    held_out = store.count("input", "test") > 0
    return [row["source"] for row in store.photos("input", "test" if held_out else "train")], held_out


def _serve_and_ask(enhancer: Enhancer, photos: Photos, enhanced: Path) -> Answer | None:
    """Deploy the model, send it one photo, and compare the answer with the same photo enhanced without the service.

    Returns None if there is no photo to send, because each one would be left alone. Raises `RunFailed` if the service
    refuses the photo or answers with another image.
    """
    name, photo, expected = _photo_to_send(enhancer, photos, enhanced)
    if photo is None:
        return None
    with app.running(
        app.AppArgs(model=model_registry.CHAMPION_URI), host="127.0.0.1", port=local.free_port()
    ) as address:
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
    after, wanted = (decode(data).pixels.astype(np.int16) for data in (body, expected))
    if after.shape != wanted.shape or np.abs(after - wanted).mean() > 1:
        raise RunFailed(f"the service did not return the enhanced version of '{name}'")
    return Answer(status=status, seconds=seconds, photo=name, model_version=version)


def _photo_to_send(enhancer: Enhancer, photos: Photos, enhanced: Path) -> tuple[str, bytes | None, bytes]:
    """Name and bytes of the photo to send, and the bytes that the service should answer.

    The photo is the first input that the archive enhanced. If it enhanced none, the photo is a natural one that can be
    enhanced. The bytes to send are None if there is no such photo either.
    """
    with open(enhanced / FOLDER / JSON_LINES) as lines:
        done = (row["source"] for row in map(json.loads, lines) if row["status"] == ENHANCED)
        name = next(done, None)
    if name is not None:
        file = from_text(name)
        return name, (Path(storage.resolve(photos.inputs)[1]) / file).read_bytes(), (enhanced / file).read_bytes()
    for uri in find_photos(photos.natural):
        data = storage.read_bytes(uri)
        with contextlib.suppress(ImageError):
            check_rewritable(data)
            return uri, data, enhancer.enhance_file(data).data
    return "", None, b""


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """Measures how many seconds each stage takes. started: the start of the whole demo."""

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
