"""What enhancement does to skin, with colours that were worked out by hand or by scikit-image."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from skimage.color import rgb2lab

from naturaltone.training.measures.skin import (
    face_skin,
    is_low_key,
    skin_change,
    skin_hue_shift,
    skin_tone,
)

SKIN = np.full((40, 40, 3), (200, 150, 130), np.uint8)
GREY = np.full((40, 40, 3), 150, np.uint8)


def test_a_turn_of_skin_hue_is_measured_in_degrees() -> None:
    redder = np.full((40, 40, 3), (200, 140, 140), np.uint8)
    hue = [math.atan2(*rgb2lab(pixels)[0, 0, :0:-1]) for pixels in (SKIN, redder)]
    assert skin_hue_shift(redder, SKIN) == pytest.approx(math.degrees(abs(hue[0] - hue[1])), abs=0.1)
    assert skin_hue_shift(SKIN, SKIN) == pytest.approx(0, abs=1e-3)
    half = np.where(np.arange(40)[:, None, None] < 20, SKIN, redder)
    assert 0.2 < skin_hue_shift(half, SKIN) / skin_hue_shift(redder, SKIN) < 0.8


def test_skin_that_loses_its_colour_has_not_turned() -> None:
    half_faded = SKIN.copy()
    half_faded[:20] = 155
    assert skin_hue_shift(half_faded, SKIN) < 0.5


def test_the_change_of_skin_has_the_signs_that_people_expect() -> None:
    everywhere = np.ones((40, 40), bool)
    still = skin_change(SKIN, SKIN, everywhere)
    assert (still.lightness, still.chroma, still.hue) == (0, 0, 0)
    paler, yellower = (np.full((40, 40, 3), colour, np.uint8) for colour in ((220, 190, 175), (200, 155, 110)))
    for other in (paler, yellower):
        before, after = (rgb2lab(pixels)[0, 0] for pixels in (SKIN, other))
        change = skin_change(other, SKIN, everywhere)
        assert change.lightness == pytest.approx(after[0] - before[0], abs=0.05)
        assert change.chroma == pytest.approx(np.hypot(*after[1:]) - np.hypot(*before[1:]), abs=0.05)
    assert skin_change(paler, SKIN, everywhere).lightness > 10 and skin_change(paler, SKIN, everywhere).chroma < -5
    assert 10 < skin_change(yellower, SKIN, everywhere).hue < 40
    assert skin_change(SKIN, yellower, everywhere).hue == pytest.approx(-skin_change(yellower, SKIN, everywhere).hue)


def test_a_dark_backdrop_makes_a_picture_low_key_and_a_light_one_does_not() -> None:
    for level, expected in ((30, True), (150, False)):
        picture = np.full((40, 40, 3), level, np.uint8)
        picture[10:20, 10:20] = SKIN[0, 0]
        assert is_low_key(picture) == expected


def test_the_skin_of_a_face_is_found_and_the_suit_beside_it_is_not(astronaut: np.ndarray) -> None:
    skin = face_skin(astronaut)
    rows, columns = np.nonzero(skin)
    assert 60 < np.median(rows) < 180 and 170 < np.median(columns) < 270  # Eileen Collins's face
    assert 20 < skin_tone(astronaut, skin) < 80
    assert not face_skin(np.ascontiguousarray(astronaut[300:])).any()


@pytest.mark.parametrize("colour", [(255, 219, 195), (224, 172, 140), (141, 85, 54), (75, 47, 36)])
def test_the_tone_of_skin_is_its_typology_angle(colour: tuple[int, int, int]) -> None:
    pixels = np.full((40, 40, 3), colour, np.uint8)
    pixels[:10] //= 2  # a shadow does not count
    lightness, _, yellow = rgb2lab(pixels)[-1, -1]
    assert skin_tone(pixels, np.ones((40, 40), bool)) == pytest.approx(
        math.degrees(math.atan2(lightness - 50, yellow)), abs=0.5
    )


def test_a_photo_without_skin_has_no_value() -> None:
    nowhere = face_skin(GREY)
    assert not nowhere.any()
    assert math.isnan(skin_tone(GREY, nowhere))
    assert math.isnan(skin_hue_shift(SKIN, GREY))


def test_small_odd_and_constant_pictures_have_values(photo: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((16, 16), (17, 41), (53, 19)):
            small = np.ascontiguousarray(photo[: shape[0], : shape[1]])
            for level in (0, 90, 255):
                flat = np.full((*shape, 3), level, np.uint8)
                for pair in ((flat, small), (small, flat), (flat, flat)):
                    assert not math.isinf(skin_hue_shift(*pair)) and not face_skin(pair[1]).all()
