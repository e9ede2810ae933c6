"""Scores a model on photos through the Enhancer, beside the input and the fixed algorithm's intermediate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline import images, ingest, shards, storage, tone
from pipeline.progress import track
from serving import sheet
from serving.enhancer import Enhancer
from training import metrics

STAGES = ("input", "intermediate", "result")


class Measure(NamedTuple):
    """A measure of (picture, input), and how a table names and explains it."""

    function: Callable[[np.ndarray, np.ndarray], float]
    label: str
    meaning: str


MEASURES = {
    "local_contrast_gain": Measure(metrics.local_contrast_gain, "local contrast gain", "times the input's"),
    "clipped_fraction": Measure(
        lambda picture, _: metrics.clipped_fraction(picture), "clipped fraction", "lower is better"
    ),
    "tmqi_naturalness": Measure(
        lambda picture, _: metrics.tmqi_naturalness(picture), "TMQI naturalness", "0 to 1, higher is better"
    ),
}


@dataclass(frozen=True, kw_only=True)
class EvaluationPhoto:
    """A photo to score: H×W×3 uint8 sRGB pixels, and its intermediate image."""

    name: str
    input: np.ndarray
    intermediate: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean measures for each stage, and the pictures of the first photos. `held_out`: training never saw the photos."""

    photos: int
    held_out: bool
    table: dict[str, dict[str, float]]
    examples: list[tuple[str, dict[str, np.ndarray]]]


def evaluate(
    enhancer: Enhancer, photos: Iterable[EvaluationPhoto], *, held_out: bool, num_examples: int = 8
) -> Evaluation:
    """Enhance every photo and average the measures of input, intermediate and result."""
    values: dict[str, dict[str, list[float]]] = {stage: {name: [] for name in MEASURES} for stage in STAGES}
    examples: list[tuple[str, dict[str, np.ndarray]]] = []
    count = 0
    for photo in track(photos, "evaluate"):
        count += 1
        pictures = dict(zip(STAGES, (photo.input, photo.intermediate, enhancer.enhance(photo.input)), strict=True))
        for stage, picture in pictures.items():
            for name, measure in MEASURES.items():
                values[stage][name].append(measure.function(picture, photo.input))
        if len(examples) < num_examples:
            examples.append((photo.name, pictures))
    if not count:
        raise ValueError("none of the photos can be read; give others")
    table = {
        stage: {name: float(np.mean(column)) for name, column in columns.items()} for stage, columns in values.items()
    }
    return Evaluation(photos=count, held_out=held_out, table=table, examples=examples)


def open_photos(uri: str, rejects: list[str]) -> tuple[Iterator[EvaluationPhoto], bool]:
    """The photos at `uri`, and whether training never saw them: a store's held-out inputs, or any folder of photos.

    A folder is taken as held out: only its owner knows.
    """
    storage.check_reachable(uri)
    if not storage.exists(storage.join(uri, shards.MANIFEST)):
        return folder_photos(ingest.find_photos(uri), rejects), True
    store = shards.open_store(uri)
    held_out = store.count("input", "test") > 0
    return _store_photos(store, "test" if held_out else "train"), held_out


def folder_photos(uris: list[str], rejects: list[str]) -> Iterator[EvaluationPhoto]:
    """Photo files to score, shrunk to at most `ingest.LONG_SIDE`; what is none is added to `rejects` with its reason."""
    for uri in uris:
        try:
            pixels = images.training_pixels(images.decode(storage.read_bytes(uri)))
        except (images.ImageError, OSError) as error:
            rejects.append(f"{uri}: {error}")
            continue
        pixels = ingest.shrink(pixels, ingest.LONG_SIDE)
        yield EvaluationPhoto(name=uri.rpartition("/")[2], input=pixels, intermediate=tone.intermediate(pixels))


def format_table(evaluation: Evaluation) -> str:
    """The table as plain text."""
    lines = [f"{'':22}" + "".join(f"{stage:>14}" for stage in STAGES)]
    for name, measure in MEASURES.items():
        cells = "".join(f"{evaluation.table[stage][name]:14.3f}" for stage in STAGES)
        lines.append(f"{measure.label:22}{cells}   {measure.meaning}")
    return "\n".join(lines)


def sheet_parts(evaluation: Evaluation) -> list[str]:
    """The table and the examples as parts of an HTML page."""
    whose = "that training never saw" if evaluation.held_out else "of the training itself (too few to hold any out)"
    rows = [
        [measure.label, *(f"{evaluation.table[stage][name]:.3f}" for stage in STAGES), measure.meaning]
        for name, measure in MEASURES.items()
    ]
    captions = {"input": "before", "intermediate": "intermediate (fixed algorithm)", "result": "after"}
    return [
        sheet.paragraph(f"Means over {evaluation.photos} photos {whose}."),
        sheet.table(["", *STAGES, ""], rows),
        *(
            sheet.picture_row([(f"{name}: {captions[stage]}", picture) for stage, picture in pictures.items()])
            for name, pictures in evaluation.examples
        ),
    ]


def _store_photos(store: shards.Store, split: str) -> Iterator[EvaluationPhoto]:
    for row in store.photos("input", split):
        yield EvaluationPhoto(
            name=row["source"].rpartition("/")[2],
            input=images.decode_rgb(row["image"]),
            intermediate=images.decode_rgb(row["intermediate"]),
        )
