"""Scores what the champion and a challenger make of the gate's photos, in several processes."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.pipeline.progress import Progress
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.gate_set import GatePhoto
from naturaltone.serving.evaluation.measures import measure_picture
from naturaltone.serving.evaluation.people import TONES, tone_of
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import load_bundle
from naturaltone.training.measures import metrics, tmqi
from naturaltone.training.measures.skin import face_skin, is_low_key, skin_change, skin_tone

SKIN_IN_LOW_KEY = "skin in low key"  # of any tone: where a model that brightens would make another skin tone of it
PEOPLE = (*(f"{tone} skin" for tone in TONES), SKIN_IN_LOW_KEY)
SLICES = ("night", "high key", "already good", "people", *PEOPLE)
_NIGHT, _HIGH_KEY = 30, 65  # mean L*
_ALREADY_GOOD = 0.8  # naturalness N; a fifth of people's photos are above


@dataclass(frozen=True, kw_only=True)
class PhotoScores:
    """The measures of one photo of the gate, for each model; NaN if there is nothing to measure.

    slices: those of `SLICES` that the photo belongs to. A natural photo can only be in those of `PEOPLE`, and only its skin
    and `identity_psnr` are measured.
    """

    photo_id: str
    name: str
    role: str
    slices: tuple[str, ...]
    champion: dict[str, float]
    challenger: dict[str, float]

    def gain(self, measure: str) -> float:
        """The challenger's value less the champion's."""
        return self.challenger.get(measure, math.nan) - self.champion.get(measure, math.nan)


def score_gate(
    photos: Iterable[GatePhoto], *, champion: Path, challenger: Path, processes: int, total: int
) -> list[PhotoScores]:
    """Enhance every photo with both models and measure the pictures. NIQE is by the champion's model of natural photos.

    champion, challenger: folders of bundles. Each process takes 500 MB. `RunFailed` if a process dies.
    """
    found = []
    # Spawned, not forked: this process may have started threads, which a fork would leave with locked locks.
    with (
        concurrent.futures.ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _load, (champion, challenger)
        ) as pool,
        Progress("gate", total=total, unit="photo") as progress,
    ):
        try:
            for scores in pool.map(_score, photos):
                found.append(scores)
                progress.advance()
        except concurrent.futures.process.BrokenProcessPool:
            raise RunFailed(
                "a process of the gate died; it may have run out of memory (each takes 500 MB): run the same command again"
            ) from None
    return found


_models: list[Enhancer] = []  # of a process of the pool: the champion, the challenger


def _load(champion: Path, challenger: Path) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _models[:] = (Enhancer(load_bundle(folder), version=folder.name) for folder in (champion, challenger))


def _score(photo: GatePhoto) -> PhotoScores:
    pixels = decode_rgb(photo.image)
    made = [model.enhance(pixels) for model in _models]
    skin = face_skin(pixels)
    if photo.role == "natural":
        slices = people_slices(pixels, skin)
        measured = [{"identity_psnr": metrics.psnr(picture, pixels)} for picture in made]
    else:
        slices = slices_of(pixels, skin)
        judge, source = _models[0].bundle, EvaluationPhoto(name=photo.name, input=pixels)
        measured = [measure_picture(picture, source, judge) for picture in made]
    champion, challenger = (
        values | skin_scores(picture, pixels, skin) for values, picture in zip(measured, made, strict=True)
    )
    return PhotoScores(
        photo_id=photo.photo_id,
        name=photo.name,
        role=photo.role,
        slices=slices,
        champion=champion,
        challenger=challenger,
    )


def slices_of(pixels: np.ndarray, skin: np.ndarray) -> tuple[str, ...]:
    """The slices of a photo, H×W×3 uint8 sRGB. skin: of its faces, see `face_skin`."""
    lightness = float(metrics.to_lab(pixels)[..., 0].mean())
    belongs = {
        "night": lightness < _NIGHT,
        "high key": lightness > _HIGH_KEY,  # snow, fog, a white background
        "already good": tmqi.naturalness(pixels) >= _ALREADY_GOOD,
        "people": bool(skin.any()),
    }
    return (*(name for name, does in belongs.items() if does), *people_slices(pixels, skin))


def people_slices(pixels: np.ndarray, skin: np.ndarray) -> tuple[str, ...]:
    """The slices by skin of a photo with faces. The photo decides, not the person: a face in the shade counts as darker."""
    if not skin.any():
        return ()
    tone = f"{tone_of(skin_tone(pixels, skin))} skin"
    return (tone, SKIN_IN_LOW_KEY) if is_low_key(pixels) else (tone,)


def skin_scores(picture: np.ndarray, input: np.ndarray, skin: np.ndarray) -> dict[str, float]:
    """How far L*, C* and hue (degrees) of the skin moved, up or down; empty without faces."""
    if not skin.any():
        return {}
    change = skin_change(picture, input, skin)
    return {
        "skin_lightness_shift": abs(change.lightness),
        "skin_chroma_shift": abs(change.chroma),
        "skin_turn": abs(change.hue),
    }
