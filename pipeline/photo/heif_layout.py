"""How a HEIF file lays out its photo: size, crop, turns, tiles and colours, and whether new pixels can take its place."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from naturaltone.pipeline.photo import heif, hevc
from naturaltone.pipeline.photo.formats import HDR_CURVES, READABLE
from naturaltone.pipeline.photo.heif import CODED, GRID, Heif, Item
from naturaltone.pipeline.photo.isobmff import Reader, top_boxes
from naturaltone.pipeline.photo.pixels import upright
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason

_TURNS = (b"irot", b"imir")
_UNSPECIFIED = 2
_DEPTHS = (8, 10, 12)
_KINDS = {b"iovl": "several pictures laid over each other", b"iden": "a changed view of another picture"}
_SEQUENCE = "the file holds a sequence of pictures; save the one you want as a photo"
_SAVE_PLAIN = "save it as a plain HEIC or JPEG first"


def orientation_of(data: bytes) -> int:
    """The EXIF orientation of the pixels in a file, as its `irot` and `imir` properties say it; 1 if it is broken.

    The orientation in the EXIF block only informs (ISO/IEC 23008-12, 7.2.1): libheif and Apple do not turn by it.
    """
    try:
        file = heif.opened(data)
        return orientation(file, file.primary)
    except ValueError:
        return 1


def orientation(file: Heif, item: Item) -> int:
    """The EXIF orientation that does the same as all turns and mirrors of an item."""
    marks = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = marks
    for box in file.all_of(item, *_TURNS):
        value = Reader(file.data, box.content, box.end).number(1)
        turned = np.rot90(turned, value & 3) if box.kind == b"irot" else np.flip(turned, value & 1)
    return next(number for number in range(1, 9) if np.array_equal(upright(marks, number), turned))


def is_tiled(data: bytes) -> bool:
    """Whether the photo consists of tiles, so that it is never decoded and coded as a whole; False if it is broken."""
    try:
        return heif.opened(data).primary.kind == GRID
    except ValueError:
        return False


def is_hdr(data: bytes) -> bool:
    """Whether the pixels of a HEIF or AVIF file mean light by the curve PQ or HLG, which only HDR screens show."""
    try:
        file = heif.opened(data)
        tint = colour(file, file.primary)
        if tint is None and file.primary.kind in (CODED, GRID) and not any(file.all_of(file.primary, b"colr")):
            tint = coding(file, file.pictures(file.primary)[0]).colour
    except (ValueError, IndexError):
        return False
    return tint is not None and tint.transfer in HDR_CURVES


def unreadable(data: bytes) -> ImageError | None:
    """Why libheif decodes no photo from a HEIF file, as far as its structure shows it."""
    if any(box.kind == b"moov" for box in top_boxes(data)) and not any(box.kind == b"meta" for box in top_boxes(data)):
        return ImageError(Reason.ANIMATED, _SEQUENCE)
    try:
        file = heif.opened(data)
    except ValueError:
        return None
    for picture in file.pictures(file.primary):
        if not picture.kind:
            return ImageError(
                Reason.TRUNCATED, "the file does not say how its pixels are coded; restore it from a backup"
            )
        if picture.kind not in (CODED, *_KINDS):
            name = picture.kind.decode("latin-1")
            return ImageError(Reason.UNSUPPORTED_FORMAT, f"its pixels are coded as '{name}', not as HEVC; {READABLE}")
    return None


def refusal(data: bytes) -> ImageError | None:
    """Why new pixels cannot take the place of the old ones in a HEIF file; None if they can."""
    try:
        file = heif.opened(data)
    except ValueError as error:
        return ImageError(Reason.TRUNCATED, f"the file is broken ({error}); restore it from a backup")
    try:
        return _refusal(file)
    except ValueError as error:
        return ImageError(Reason.UNWRITABLE, f"the photo cannot be written again as HEIF ({error})")


def _refusal(file: Heif) -> ImageError | None:
    photo = file.primary
    if any(box.kind == b"moov" for box in file.top):
        return ImageError(Reason.ANIMATED, _SEQUENCE)
    if file.targets(b"thmb", photo.number):
        return ImageError(Reason.UNSUPPORTED_MODE, f"it names a thumbnail as its photo; {_SAVE_PLAIN}")
    if photo.kind in _KINDS:
        return ImageError(Reason.UNSUPPORTED_MODE, f"its photo is {_KINDS[photo.kind]}; {_SAVE_PLAIN}")
    if file.targets(b"prem", photo.number) or file.sources(b"prem", photo.number):
        what = "opacity multiplied into the colours; save it with plain opacity"
        return ImageError(Reason.UNSUPPORTED_MODE, what)
    changes = [box.kind for box in file.all_of(photo, b"clap", *_TURNS)]
    if b"clap" in changes[1:]:
        return ImageError(Reason.UNSUPPORTED_MODE, f"it is cropped after it is turned; {_SAVE_PLAIN}")
    grid(file, photo)
    pictures = file.pictures(photo)
    if len({picture.number for picture in pictures}) < len(pictures):
        return ImageError(Reason.UNSUPPORTED_MODE, f"it repeats some of its tiles; {_SAVE_PLAIN}")
    depths = {coding(file, picture).depth for picture in pictures}
    if not depths <= set(_DEPTHS):
        return ImageError(Reason.UNSUPPORTED_DEPTH, f"{max(depths)} bits a channel; save it with 8, 10 or 12")
    return None


def colour(file: Heif, item: Item) -> hevc.Colour | None:
    """How the item's numbers mean colours, by its own `nclx` box or that of its first tile; None if neither has one."""
    for each in (item, *file.pictures(item)[:1]):
        for box in file.all_of(each, b"colr"):
            reader = Reader(file.data, box.content, box.end)
            if reader.raw(4) == b"nclx":
                return hevc.Colour(reader.number(2), reader.number(2), reader.number(2), bool(reader.number(1) & 128))
    return None


def crop(file: Heif, item: Item, width: int, height: int) -> tuple[int, int, int, int]:
    """What an item shows of its pixels: left, top, width and height (ISO/IEC 14496-12, 12.1.4), rounded as by libheif."""
    box = next(file.all_of(item, b"clap"), None)
    if box is None:
        return 0, 0, width, height
    reader = Reader(file.data, box.content, box.end)
    shown_width, shown_height, across, down = (_fraction(reader) for _ in range(4))
    left = int(across + Fraction(width - 1, 2) - (shown_width - 1) / 2)
    top = int(down + Fraction(height, 2) - (shown_height - 1) / 2)
    right, bottom = min(left + round(shown_width), width), min(top + round(shown_height), height)
    left, top = max(left, 0), max(top, 0)
    if left >= right or top >= bottom:
        raise ValueError("the crop lies outside the pixels")
    return left, top, right - left, bottom - top


def size(file: Heif, item: Item) -> tuple[int, int]:
    """Width and height of an item before it is cropped and turned."""
    box = next(file.all_of(item, b"ispe"), None)
    if box is None:
        raise ValueError("a picture of the file does not say its size")
    reader = Reader(file.data, box.content + 4, box.end)
    return reader.number(4), reader.number(4)


def coding(file: Heif, picture: Item) -> hevc.Coding:
    """How a picture is coded; `ValueError` if it is not HEVC, or broken."""
    config = next(file.all_of(picture, b"hvcC"), None)
    if picture.kind != CODED or config is None:
        raise ValueError(f"a picture of the file is coded as '{picture.kind.decode('latin-1')}', not as HEVC")
    return hevc.coding(file.body(config), file.content(picture))


def grid(file: Heif, item: Item) -> tuple[int, int]:
    """Rows and columns of an item's tiles."""
    if item.kind != GRID:
        return 1, 1
    reader = Reader(content := file.content(item), 2, len(content))
    rows, columns = reader.number(1) + 1, reader.number(1) + 1
    if rows * columns != len(file.pictures(item)):
        raise ValueError("the grid has more or fewer cells than tiles")
    return rows, columns


def _fraction(reader: Reader) -> Fraction:
    above, below = (int.from_bytes(reader.raw(4), "big", signed=True) for _ in range(2))
    if below == 0:
        raise ValueError("the file has an impossible crop")
    return Fraction(above, below)
