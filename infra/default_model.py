"""How the default model is made: photos and dulled copies into a store, training without Ray, and its test on held-out photos.

    python -m naturaltone.infra.default_model PHOTOS WORK        PHOTOS/inputs of poor tone, PHOTOS/natural of good tone

WORK keeps everything: run it again and it goes on. Held out, before anything is learned, are a quarter of the inputs and an
eighth of the natural photos, by their content; the tables and the sheets at the end are of those. WORK/pretrained is the
bundle with these numbers in it, as it is shipped in serving/pretrained.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from naturaltone.infra import dull, local
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
from naturaltone.serving.evaluation.photos import EvaluationPhoto, folder_photos
from naturaltone.training import runs
from naturaltone.training.alone import train_alone
from naturaltone.training.checkpoint import load_bundle, save_bundle
from naturaltone.training.config import TrainConfig, make_config
from naturaltone.training.train import write_bundle

LONG_SIDE = 320  # crops of 208 then see most of a photo, and so its tone; the enhancer carries the change to any size
COPIES = 1  # dulled ones of each natural photo
VARIANTS = 5  # of each input, a little lighter or darker, warmer or colder
RUN = "default"
_DRAW = b"2"  # of what is held out: drawn anew after the first ones had been looked at for many choices


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args(arguments)
    config = make_config("small", options.set)
    prepare(options.photos, options.work)
    bundle = train(options.work, config)
    release(bundle, measure(bundle, options.work), options.work / "pretrained")
    return 0


def prepare(photos: Path, work: Path) -> None:
    """Split the photos, dull copies, and ingest those to train on; what is there already stays."""
    done = work / "prepared"
    if done.exists():
        return
    split(photos, work)
    with local.ray_session():
        for role, folder in (("input", "inputs"), ("natural", "natural")):
            ingest.ingest(str(work / "train" / folder), role=role, store=str(work / "store"), long_side=LONG_SIDE)
    done.touch()


def split(photos: Path, work: Path) -> None:
    """Write the photos and their dulled copies to `work/train` and `work/held-out`; no photo goes to both."""
    held_out = work / "held-out"
    random = np.random.default_rng(0)
    for role, share in (("inputs", 4), ("natural", 8)):
        for number, (name, pixels) in enumerate(_by_content(photos / role)):
            if number % share == 0:
                _write(held_out / role / name, pixels)
                if role == "natural":
                    _write(held_out / "dulled" / name, dull.dull(pixels, random))
                continue
            _write(work / "train" / role / name, pixels)
            for copy in range(COPIES if role == "natural" else VARIANTS):
                other = dull.dull(pixels, random) if role == "natural" else dull.vary(pixels, random)
                _write(work / "train" / "inputs" / f"{Path(name).stem}-{copy}.jpg", other)


def train(work: Path, config: TrainConfig) -> Path:
    """Train, or go on; returns the folder of the bundle."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = storage.absolute(str(work / "store"))
    snapshot = train_alone(store, config, run_name=RUN, device=device)
    write_bundle(work / "bundle", snapshot, runs.open_run(store, RUN).store, run=RUN)
    return work / "bundle"


def measure(bundle: Path, work: Path) -> dict[str, Evaluation]:
    """Print tables of the held-out photos, beside ImageMagick where it is installed, and write a sheet for each."""
    enhancer = Enhancer.load(str(bundle))
    stages = {
        "input": Stage("input", lambda pixels: pixels),
        "intermediate": Stage("fixed algorithm", tone.intermediate),
        "result": Stage("naturaltone", enhancer.enhance),
    }
    if shutil.which("convert"):
        stages["imagemagick"] = Stage("ImageMagick auto", imagemagick_auto)
    evaluations = {}
    for kind in ("inputs", "dulled"):
        evaluations[kind] = evaluation = evaluate.score(
            _photos(work / "held-out" / kind),
            stages,
            natural=_photos(work / "held-out" / "natural"),
            held_out=True,
            judged="result",
            judge=enhancer.bundle,
        )
        print(f"\n{kind}: {evaluation.photos} held-out photos\n{evaluation_report.format_table(evaluation)}")
        page = evaluation_report.evaluation_page(f"default model on held-out {kind}", evaluation)
        (work / f"{kind}.html").write_text(page)
    return evaluations


def release(bundle: Path, evaluations: dict[str, Evaluation], folder: Path) -> None:
    """Write the bundle anew with what was measured, and without the places on this machine where it was made."""
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
    """Without those that were not measured, for which JSON has no name."""
    return {
        stage: {name: value for name, value in row.items() if not math.isnan(value)} for stage, row in table.items()
    }


def imagemagick_auto(pixels: np.ndarray) -> np.ndarray:
    """`convert -auto-level -auto-gamma`, what a user would take instead; H×W×3 uint8 in and out."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.png", Path(folder) / "after.png"
        cv2.imwrite(str(before), pixels[..., ::-1])
        subprocess.run(["convert", str(before), "-auto-level", "-auto-gamma", f"PNG24:{after}"], check=True)
        return cv2.cvtColor(cv2.imread(str(after), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _by_content(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels of a folder's photos, in the order of a hash of their bytes: random, and the same on every machine."""
    files = {uri: storage.read_bytes(uri) for uri in find_photos(str(folder))}
    for uri in sorted(files, key=lambda uri: hashlib.sha256(_DRAW + files[uri]).hexdigest()):
        yield f"{Path(uri).stem}.jpg", training_pixels(decode(files[uri]))


def _photos(folder: Path) -> Iterator[EvaluationPhoto]:
    return folder_photos(find_photos(str(folder)), [])


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(pixels, quality=95))


if __name__ == "__main__":
    sys.exit(main())
