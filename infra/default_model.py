"""Makes the default model: adds dulled copies to photos, ingests them, trains without Ray, and tests on held-out photos.

    python -m naturaltone.infra.default_model PHOTOS WORK

PHOTOS/inputs holds photos of poor tone, PHOTOS/natural photos of good tone. PHOTOS/portraits, if it is there, holds
well-exposed portraits, and a table SOURCES.tsv of their face boxes (`face_box`: x,y,width,height) and classes of skin tone
(`class`). They are natural photos, and so are copies that are re-lit as low key: a model must not make another skin tone of
what is dark by its scene. Underexposed copies are inputs. WORK keeps all results, and a second run resumes. Before the
training, a quarter of the inputs, an eighth of the natural photos and a quarter of the portraits are held out. A hash of their
content decides which. The tables and sheets at the end show only held-out photos; a table of its own shows the inputs of poor
tone, if PHOTOS/SOURCES.tsv marks them (`poor tone by rule`). WORK/pretrained is the model bundle with the
numbers of the tables; serving/pretrained ships it. If PHOTOS/SOURCES.tsv and PHOTOS/portraits/SOURCES.tsv name the licence and
author of each `file`, the bundle names them too; then no photo may lack a row, or its author if it is under CC BY.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from naturaltone.infra import dull, local
from naturaltone.infra.endings import end_with
from naturaltone.infra.held_out import box_of, kinds_of, photos_in, skin_distances
from naturaltone.infra.imagemagick import imagemagick
from naturaltone.infra.photo_sources import TABLE, checked_sources, list_sources, read_table
from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import ingest
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.evaluate import Evaluation, Stage
from naturaltone.serving.evaluation.measures import Scores
from naturaltone.training import runs
from naturaltone.training.alone import train_alone
from naturaltone.training.checkpoint import load_bundle, save_bundle
from naturaltone.training.config import TrainConfig, make_config
from naturaltone.training.train import write_bundle

# Crops of 208 pixels then show most of a photo, and so its tone. The enhancer carries the change to any size.
LONG_SIDE = 320
COPIES = 1  # dulled copies of each natural photo
VARIANTS = 2  # copies of each input, a little lighter or darker, warmer or colder
# Copies of each portrait, re-lit as low key. Darker skin has more: there are fewer portraits of it, and it is the first that a
# model takes for underexposed.
LOW_KEYS = {"tan": 6, "brown": 10, "dark": 10}
OTHER_LOW_KEYS = 4
UNDEREXPOSED = 2  # copies of each portrait
STOPS = (1.0, 2.5)  # of the underexposed copies
ALGORITHM = tone.KEYED_LAPLACIAN
RUN = "default"
DRAW = "3"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--draw", default=DRAW, help="seeds the choice of the held-out photos (default: %(default)s)")
    parser.add_argument("--against", metavar="MODEL", help="another model for the tables, such as pretrained")
    options = parser.parse_args(arguments)
    config = make_config("small", options.set)
    checked_sources(options.photos)  # a photo without a source is found before the training
    prepare(options.photos, options.work, draw=options.draw)
    bundle = train(options.work, config)
    evaluations = measure(bundle, options.photos, options.work, against=options.against)
    release(bundle, evaluations, options.work / "pretrained")
    if sources := list_sources(options.photos, options.work / "held-out"):
        (options.work / "pretrained" / TABLE).write_text(sources, encoding="utf-8")
    return 0


def prepare(photos: Path, work: Path, *, draw: str = DRAW) -> None:
    """Split the photos, make dulled copies, and ingest the training photos; does nothing if an earlier run did this."""
    done = work / "prepared"
    if done.exists():
        return
    split(photos, work, draw=draw)
    with local.ray_session():
        for role, folder in (("input", "inputs"), ("natural", "natural")):
            ingest.ingest(
                str(work / "train" / folder),
                role=role,
                store=str(work / "store"),
                long_side=LONG_SIDE,
                algorithm=ALGORITHM.name,
            )
    done.touch()


def split(photos: Path, work: Path, *, draw: str = DRAW) -> None:
    """Write each photo and its copies either to `work/train` or to `work/held-out`, never to both."""
    held_out = work / "held-out"
    random = np.random.default_rng(0)
    for role, share in (("inputs", 4), ("natural", 8)):
        for number, (name, pixels) in enumerate(_by_content(photos / role, draw)):
            if number % share == 0:
                _write(held_out / role / name, pixels)
                if role == "natural":
                    _write(held_out / "dulled" / name, dull.dull(pixels, random))
                continue
            _write(work / "train" / role / name, pixels)
            for copy in range(COPIES if role == "natural" else VARIANTS):
                other = dull.dull(pixels, random) if role == "natural" else dull.vary(pixels, random)
                _write(work / "train" / "inputs" / f"{Path(name).stem}-{copy}.jpg", other)
    if (photos / "portraits").exists():
        _split_portraits(photos / "portraits", work, draw, random)


def _split_portraits(portraits: Path, work: Path, draw: str, random: np.random.Generator) -> None:
    rows = {row["file"]: row for row in read_table(portraits)}
    # By class first, so that each class of skin tone has its share of the held-out portraits.
    ordered = sorted(_by_content(portraits, draw), key=lambda each: rows[each[0]]["class"])
    for number, (name, pixels) in enumerate(ordered):
        if number % 4 == 0:
            _write(work / "held-out" / "portraits" / name, pixels)
            _write(work / "held-out" / "underexposed" / name, dull.underexpose(pixels, 1.5, random))
            continue
        face, copies = box_of(rows[name]["face_box"]), LOW_KEYS.get(rows[name]["class"], OTHER_LOW_KEYS)
        for copy in range(1 + copies):
            shown = dull.low_key(pixels, face, random) if copy else pixels
            _write(work / "train" / "natural" / f"portrait-{Path(name).stem}-{copy}.jpg", shown)
        # None is both in low key and underexposed: it would teach G to lighten what looks like a good photo of low key.
        for copy in range(UNDEREXPOSED):
            dark = dull.underexpose(pixels, random.uniform(*STOPS), random)
            _write(work / "train" / "inputs" / f"portrait-{Path(name).stem}-{copy}.jpg", dark)


def train(work: Path, config: TrainConfig) -> Path:
    """Train, or resume the training; returns the folder of the model bundle."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = storage.absolute(str(work / "store"))
    snapshot = train_alone(store, config, run_name=RUN, device=device)
    write_bundle(work / "bundle", snapshot, runs.open_run(store, RUN).store, run=RUN)
    return work / "bundle"


def measure(bundle: Path, photos: Path, work: Path, *, against: str | None = None) -> dict[str, Evaluation]:
    """Score all kinds of held-out photos: print a table and write a sheet for each.

    The tables compare with the model `against`, and with ImageMagick if it is installed. Dulled and underexposed photos
    are compared with those that they were made of. photos: the folder with the tables of face boxes and of poor tone.
    """
    enhancer = Enhancer.load(str(bundle))
    stages = {
        "input": Stage("input", lambda pixels: pixels),
        "intermediate": Stage("fixed algorithm", lambda pixels: tone.intermediate(pixels, ALGORITHM)),
        "result": Stage("naturaltone", enhancer.enhance),
    }
    if against:
        stages["against"] = Stage(against, Enhancer.load(against).enhance)
    if imagemagick():
        stages["imagemagick"] = Stage("ImageMagick auto", imagemagick_auto)
    evaluations = {}
    for kind, held_out in kinds_of(photos, work / "held-out").items():
        evaluations[kind] = evaluation = evaluate.score(
            held_out,
            stages,
            natural=photos_in(work / "held-out" / "natural") if kind == "inputs" else (),
            held_out=True,
            judged="result",
            judge=enhancer.bundle,
        )
        page = evaluation_report.evaluation_page(f"default model on held-out {kind}", evaluation)
        (work / f"{kind}.html").write_text(page)
    poor = {f"{Path(row['file']).stem}.jpg" for row in read_table(photos) if row.get("poor tone by rule")}
    if "inputs" in evaluations and (marked := evaluations["inputs"].scores.keys() & poor):
        inputs = evaluations["inputs"]
        scores = {name: inputs.scores[name] for name in sorted(marked)}
        evaluations["poor"] = dataclasses.replace(inputs, scores=scores, identity={}, faces=[])
    for kind, evaluation in evaluations.items():
        print(f"\n{kind}: {evaluation.photos} held-out photos\n{evaluation_report.format_table(evaluation)}")
        if against and (lines := evaluation_report.skin_lines(evaluation, "against")):
            print("\n".join(["", f"by {against}:", *lines[1:]]))
    for stage in stages.values():
        if distances := list(skin_distances(photos, work / "held-out", stage)):
            distance = float(np.mean(distances))
            print(f"skin of {len(distances)} underexposed faces, {stage.label}: {distance:.1f} L* from the portrait's")
    return evaluations


def release(bundle: Path, evaluations: dict[str, Evaluation], folder: Path) -> None:
    """Write a copy of the bundle to `folder`, with the measured numbers and without the store and run of this machine."""
    made = load_bundle(bundle)
    save_bundle(
        folder,
        made.generator,
        TrainConfig(**made.description["training"]),
        working_resolution=made.working_resolution,
        lineage={name: value for name, value in made.description["lineage"].items() if name not in ("store", "run")},
        natural_model=made.natural_model,
        metrics={kind: {"photos": one.photos, **_numbers(one.table)} for kind, one in evaluations.items()},
    )


def _numbers(table: Scores) -> Scores:
    """The table without measures that are NaN, because JSON has no NaN."""
    return {
        stage: {name: value for name, value in row.items() if not math.isnan(value)} for stage, row in table.items()
    }


def imagemagick_auto(pixels: np.ndarray) -> np.ndarray:
    """Run `convert -auto-level -auto-gamma`, the usual alternative; takes and returns H×W×3 uint8."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.png", Path(folder) / "after.png"
        cv2.imwrite(str(before), pixels[..., ::-1])
        subprocess.run([str(imagemagick()), str(before), "-auto-level", "-auto-gamma", f"PNG24:{after}"], check=True)
        return cv2.cvtColor(cv2.imread(str(after), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _by_content(folder: Path, draw: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and pixels of each photo of a folder, ordered by a hash of the file: random, and the same on every machine."""
    files = {uri: storage.read_bytes(uri) for uri in find_photos(str(folder))}
    for uri in sorted(files, key=lambda uri: hashlib.sha256(draw.encode() + files[uri]).hexdigest()):
        yield f"{Path(uri).stem}.jpg", training_pixels(decode(files[uri]))


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(pixels, quality=95))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        sys.exit(end_with(error, None))
