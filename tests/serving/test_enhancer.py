"""A photo of any size, depth and profile is enhanced; strength 0 leaves it unchanged."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.checkpoint import Bundle
from tests.pipeline.photo.files import linear_profile


@pytest.fixture(scope="module")
def tiny(bundle: Bundle) -> Enhancer:
    return Enhancer(bundle, version="tiny")


def test_strength_0_returns_the_pixels_unchanged(tiny: Enhancer, astronaut: np.ndarray) -> None:
    assert np.array_equal(tiny.enhance(astronaut, strength=0), astronaut)


def test_strength_blends_from_the_photo_to_the_models_result_and_beyond(tiny: Enhancer, photo: np.ndarray) -> None:
    full = tiny.enhance(photo).astype(int) - photo
    assert np.abs(full).mean() > 3, "the test's model must change the photo"
    room = np.minimum(photo, 255 - photo.astype(int)) / 2  # the change that does not reach the limits of `KEPT`
    middle = (np.abs(full) * 1.5 < room - 2).all(axis=2)
    assert middle.mean() > 0.2
    half = tiny.enhance(photo, strength=0.5).astype(int) - photo
    beyond = tiny.enhance(photo, strength=1.5).astype(int) - photo
    assert np.abs(half - full / 2)[middle].max() <= 1.5
    assert np.abs(beyond - full * 1.5)[middle].max() <= 2


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float, tiny: Enhancer, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"strength .*between 0 .* and 1.5"):
        tiny.enhance(photo, strength=strength)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(16, 300), width=st.integers(16, 300))
def test_the_result_has_the_size_of_the_photo(height: int, width: int, tiny: Enhancer, astronaut: np.ndarray) -> None:
    pixels = astronaut[:height, :width]
    assert tiny.enhance(pixels).shape == pixels.shape


@pytest.mark.parametrize("shape", [(16, 4000), (4000, 16), (17, 19)])
def test_panoramas_and_tiny_photos_are_enhanced(shape: tuple[int, int], tiny: Enhancer, astronaut: np.ndarray) -> None:
    pixels = cv2.resize(astronaut, shape[::-1])
    assert tiny.enhance(pixels).shape == (*shape, 3)


def test_a_photo_gets_the_same_look_at_any_size(tiny: Enhancer, astronaut: np.ndarray) -> None:
    large = cv2.resize(astronaut, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(large, (384, 384), interpolation=cv2.INTER_AREA)
    shrunk = cv2.resize(tiny.enhance(large), (384, 384), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(shrunk, tiny.enhance(small)) > 34


def test_the_fast_way_adds_no_halo_to_the_halo_of_the_network(tiny: Enhancer) -> None:
    """At twice the working resolution, near an edge, the result stays within the range of G's picture, enlarged."""
    side = 2 * tiny.bundle.working_resolution
    edge = np.full((side, side, 3), 70, np.uint8)
    edge[:, side // 2 :] = 180
    small = cv2.resize(edge, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(tiny.enhance(small, exact=True), (side, side), interpolation=cv2.INTER_LINEAR).astype(int)
    fast = tiny.enhance(edge).astype(int)
    inner = slice(side // 8, -side // 8)
    for half in (slice(side // 8, side // 2 - 2), slice(side // 2 + 2, -side // 8)):
        ours, theirs = fast[inner, half], enlarged[inner, half]
        assert ours.max() <= theirs.max() + 2 and ours.min() >= theirs.min() - 2


def test_a_16_bit_photo_stays_16_bit_and_looks_the_same(tiny: Enhancer, photo: np.ndarray) -> None:
    deep = photo.astype(np.uint16) * 257
    result = tiny.enhance(deep)
    assert result.dtype == np.uint16
    assert np.abs(result / 257 - tiny.enhance(photo)).mean() < 0.5
    assert len(np.unique(result % 257)) > 200, "the result uses all 16 bits"


def test_opacity_does_not_change(tiny: Enhancer, photo: np.ndarray) -> None:
    alpha = np.arange(photo[..., 0].size, dtype=np.uint64).reshape(photo.shape[:2]).astype(np.uint8)
    with_alpha = tiny.enhance(np.dstack([photo, alpha]))
    assert np.array_equal(with_alpha[..., 3], alpha) and np.array_equal(with_alpha[..., :3], tiny.enhance(photo))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_rotated_photo_gets_the_look_of_the_upright_one(
    orientation: int, tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    stored = {3: np.rot90(photo, 2), 6: np.rot90(photo), 8: np.rot90(photo, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = tiny.enhance_file(to_file(np.ascontiguousarray(stored), "PNG", exif=exif)).data
    upright = tiny.enhance_file(to_file(photo, "PNG")).data
    assert np.array_equal(decode(turned).pixels, decode(upright).pixels)


def test_strength_0_returns_the_same_bytes(tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    data = to_file(photo, quality=60)
    assert tiny.enhance_file(data, strength=0).data == data


def test_a_wide_gamut_photo_stays_in_its_own_profile(
    tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    """The colours that the photo shows are enhanced, not the numbers that its profile stores."""
    wide = linear_profile()
    data = to_file(from_srgb(photo, wide), "PNG", icc_profile=wide)
    enhanced = decode(tiny.enhance_file(data).data)
    assert enhanced.icc_profile == wide
    seen = to_srgb(np.ascontiguousarray(enhanced.pixels), wide).astype(int)
    bright = photo.min(axis=2) > 60  # a linear 8-bit profile has few levels in dark areas
    assert np.abs(seen - tiny.enhance(photo))[bright].mean() < 4


def test_a_step_edge_gets_no_halo(tiny: Enhancer) -> None:
    """Photographers complain first about a bright line beside a dark roof."""
    edge = np.full((400, 400, 3), 60, np.uint8)
    edge[:, 200:] = 190
    row = tiny.enhance(edge)[200, 40:-40].astype(int)
    dark, bright = row[:120], row[-120:]
    assert dark.max() - dark.min() < 40 and bright.max() - bright.min() < 40
    assert np.abs(np.diff(dark, axis=0)).max() <= 3 and np.abs(np.diff(bright, axis=0)).max() <= 3


def test_a_photo_file_keeps_its_metadata(tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    before = to_file(photo, exif=exif, dpi=(300, 300))
    enhanced = tiny.enhance_file(before)
    written = Image.open(io.BytesIO(enhanced.data))
    assert written.getexif()[0x010F] == "Maker" and written.info["dpi"] == (300, 300)
    assert enhanced.megapixels == pytest.approx(photo.shape[0] * photo.shape[1] / 1e6)


def test_each_stage_is_told_in_its_order(tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    stages: list[str] = []
    tiny.enhance_file(to_file(photo), watch=stages.append)
    assert stages == ["decode", "network", "apply", "encode"]


@pytest.mark.parametrize("last", ["decode", "network", "apply", "encode"])
def test_what_the_watcher_raises_ends_the_work(
    last: str, tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    stages: list[str] = []

    def watch(stage: str) -> None:
        stages.append(stage)
        if stage == last:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiny.enhance_file(to_file(photo), watch=watch)
    assert stages[-1] == last


@pytest.mark.parametrize("strength", [0, 1])
def test_another_format_holds_the_same_picture(
    strength: float, tiny: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(photo, "PNG")
    same, other = (tiny.enhance_file(data, strength=strength, format=format) for format in (None, "WEBP"))
    assert decode(other.data).format == "WEBP" and other.version == "tiny"
    assert np.abs(decode(same.data).pixels.astype(int) - decode(other.data).pixels).mean() < 4
    stamp = decode(other.data).stamp
    assert stamp is None if strength == 0 else stamp is not None and stamp.model == "tiny"
