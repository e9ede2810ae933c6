"""The HDR gain map of a HEIF: which item it is, what its values mean, and its pixels."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np

from naturaltone.pipeline.photo import heif, heif_layout, tiff
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.pipeline.photo.heif import EXIF, TONE_MAP, Heif, Item
from naturaltone.pipeline.photo.pixels import to_8bit
from naturaltone.pipeline.photo.ultra_hdr import Meaning, unpacked

if HAS_HEIF:
    import pillow_heif

_APPLE = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_APPLE_NOTE, _NOTE_DIRECTORY = b"Apple iOS\0", 14
_EXIF_POINTER, _MAKER_NOTE, _HEADROOM, _GAIN, _SIGNED_RATIONAL = 0x8769, 0x927C, 33, 48, 10
_SAME_SHAPE = 0.01  # the most by which the ratios of the sides of photo and map differ


def is_known(data: bytes) -> bool:
    """Whether a HEIF has a gain map whose values `read` knows the meaning of."""
    try:
        return _described(heif.opened(data)) is not None
    except ValueError:
        return False


def read(data: bytes) -> tuple[np.ndarray, Meaning] | None:
    """The values of a gain map, upright, h×w or h×w×3 uint8, and what they mean; None if `is_known` is false.

    `ValueError` or an error of libheif if the map is damaged.
    """
    file = heif.opened(data)
    described = _described(file)
    if described is None:
        return None
    item, meaning, is_apples = described
    image = pillow_heif.open_heif(io.BytesIO(data))
    values = to_8bit(np.asarray(image[image.primary_index].get_aux_image(item.number)))  # libheif turns it
    if is_apples:
        values = _apples_table(float(meaning.hdr_headroom))[values]
    return values, meaning


def _described(file: Heif) -> tuple[Item, Meaning, bool] | None:
    """The item of the map, its meaning, and whether its values must pass through `_apples_table` to have this meaning."""
    photo = file.primary
    maps = [(item, name) for item, name in heif.gain_maps(file) if photo.number in file.targets(b"auxl", item.number)]
    if len(maps) != 1:
        return None
    item, name = maps[0]
    # Some of Samsung's maps lack the turn of their photo.
    if heif_layout.orientation(file, item) != heif_layout.orientation(file, photo):
        return None
    _, _, width, height = heif_layout.crop(file, photo, *heif_layout.size(file, photo))
    map_width, map_height = heif_layout.size(file, item)
    if not 0 < map_width <= width or not 0 < map_height <= height:
        return None
    if abs(map_width * height / (map_height * width) - 1) > _SAME_SHAPE:
        return None
    for both in file.sources(b"dimg", item.number):
        if both.kind == TONE_MAP and file.targets(b"dimg", both.number) == (photo.number, item.number):
            meaning = unpacked(file.content(both)[1:])
            return (item, meaning, False) if meaning else None
    stops = _apples_headroom(file) if name == _APPLE else 0
    return (item, _of_apple(stops), True) if stops > 0 else None


def _of_apple(stops: float) -> Meaning:
    nothing, most = Fraction(0), Fraction(stops).limit_denominator(10**6)
    return Meaning(
        low=nothing,
        high=most,
        gamma=Fraction(1),
        base_offset=nothing,
        hdr_offset=nothing,
        base_headroom=nothing,
        hdr_headroom=most,
    )


def _apples_headroom(file: Heif) -> float:
    """The headroom in stops, from the maker note; 0 if it does not say.

    By Apple's "Applying Apple HDR effect to your photos" (developer documentation of AppKit).
    """
    item = file.describing(EXIF)
    content = file.content(item) if item else b""
    try:
        block = content[heif.exif_start(content) :]
        order = tiff.byte_order(block)
        first = tiff.by_tag(tiff.directory(block, tiff.first_directory(block, order), order)[0])
        exif = tiff.by_tag(tiff.directory(block, tiff.numbers(block, first.get(_EXIF_POINTER), order)[0], order)[0])
        note = block[exif[_MAKER_NOTE].offset :][: exif[_MAKER_NOTE].size]
        if not note.startswith(_APPLE_NOTE):
            return 0.0
        tags = tiff.by_tag(tiff.directory(note, _NOTE_DIRECTORY, ">")[0])
        headroom, gain = (_rational(note, tags[tag]) for tag in (_HEADROOM, _GAIN))
    except (ValueError, KeyError, IndexError, ZeroDivisionError, struct.error):
        return 0.0
    if gain < 0:  # damaged: the formula would give any number of stops
        return 0.0
    if headroom < 1:
        return 1.8 - 20 * gain if gain <= 0.01 else 1.601 - 0.101 * gain
    return 3 - 70 * gain if gain <= 0.01 else 2.303 - 0.303 * gain


def _rational(note: bytes, entry: tiff.Entry) -> float:
    if entry.kind != _SIGNED_RATIONAL:
        raise ValueError("a number of the maker note is of another type")
    above, below = struct.unpack_from(">ii", note, entry.offset)
    return above / below


def _apples_table(stops: float) -> np.ndarray:
    """For each value of Apple's map, the share of `stops` for which it stands, 0 to 255.

    The HDR picture is 1 + (2^stops - 1) · m times as light as the photo, where m is the value by the curve of Rec. 709.
    """
    values = np.arange(256) / 255
    linear = np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))
    return np.round(np.log2(1 + (2**stops - 1) * linear) / stops * 255).astype(np.uint8)
