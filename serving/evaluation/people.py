"""What models make of people: how far the skin of faces moves, by skin tone and by the key of the picture.

Skin that gets lighter or darker can become another skin tone. In a picture of low key this happens most: a model that brightens
the picture brightens the face, too, and nothing was wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from naturaltone.training.measures.skin import Box, SkinChange, face_skin, is_low_key, skin_change, skin_tone

TONES = ("lighter", "tan", "brown to dark")
# Least typology angles of all but the last (Chardon et al. 1991); brown and dark are one group, as few photos are of either.
_LEAST_ANGLES = (28.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Face:
    """The face of a photo. tone: one of `TONES`. changes: by stage, what became of its skin."""

    name: str
    tone: str
    is_low_key: bool
    changes: dict[str, SkinChange]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Faces of one tone in pictures of one key: how many, how far their skin moved in the mean, and the farthest in L*.

    mean_distance: the mean of how far each moved in L*, up or down.
    """

    tone: str
    is_low_key: bool
    faces: int
    mean: SkinChange
    mean_distance: float
    farthest: float
    farthest_name: str

    @property
    def label(self) -> str:
        return f"{self.tone}, {'low key' if self.is_low_key else 'other'}"


def find_face(name: str, input: np.ndarray, pictures: Mapping[str, np.ndarray], box: Box | None = None) -> Face | None:
    """The face in a photo, H×W×3 uint8, and what became of it in each of the pictures; None if no face is found.

    box: where the face is, if that is known.
    """
    skin = face_skin(input, box)
    if not skin.any():
        return None
    return Face(
        name=name,
        tone=tone_of(skin_tone(input, skin)),
        is_low_key=is_low_key(input),
        changes={stage: skin_change(picture, input, skin) for stage, picture in pictures.items()},
    )


def tone_of(angle: float) -> str:
    """The group of an individual typology angle in degrees."""
    return next((tone for tone, least in zip(TONES, _LEAST_ANGLES, strict=False) if angle > least), TONES[-1])


def group_faces(faces: Sequence[Face], stage: str) -> list[Group]:
    """The groups that have faces: those of low key first, from lighter to darker skin."""
    groups = []
    for low_key in (True, False):
        for tone in TONES:
            members = [face for face in faces if face.tone == tone and face.is_low_key == low_key]
            if not members:
                continue
            changes = [face.changes[stage] for face in members]
            farthest = max(members, key=lambda face: abs(face.changes[stage].lightness))
            groups.append(
                Group(
                    tone=tone,
                    is_low_key=low_key,
                    faces=len(members),
                    mean=SkinChange(
                        lightness=float(np.mean([change.lightness for change in changes])),
                        chroma=float(np.mean([change.chroma for change in changes])),
                        hue=float(np.mean([change.hue for change in changes])),
                    ),
                    mean_distance=float(np.mean([abs(change.lightness) for change in changes])),
                    farthest=farthest.changes[stage].lightness,
                    farthest_name=farthest.name,
                )
            )
    return groups
