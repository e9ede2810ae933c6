"""Code new pixels in the shape of a HEIF file's own pictures: its tiles, or its one picture, and its thumbnails."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from naturaltone.pipeline.photo import heif, heif_layout, hevc
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.pipeline.photo.heif import Heif, Item
from naturaltone.pipeline.photo.pixels import as_stored, to_8bit, upright
from naturaltone.pipeline.photo.refusals import MAX_PIXELS

if HAS_HEIF:
    import pillow_heif

_JPEG = b"jpeg"
_CHROMA = {1: 420, 2: 422, 3: 444}
_PHONES_QUANTISER = 15
_TOO_SMALL, _STEPS_TO_HALVE = 0.6, 6  # share of the old bytes; steps of the quantiser that halve the bytes
_FEW = 4  # a picture and its thumbnails
# libheif turns on searches that triple the time and save 10% of the bytes. Without rc-lookahead's tree, x265 need not look
# at the picture twice. ipratio keeps the quantiser of intra pictures at `qp`.
_FAST = {"preset": "ultrafast", "x265:rect": 0, "x265:amp": 0, "x265:rd": 1, "x265:no-cutree": 1, "x265:ipratio": 1.0}
_ONE_THREAD = {"x265:pools": "none", "x265:frame-threads": 1}


@dataclass(frozen=True)
class _Task:
    """A picture to be coded, and the pixels for it (H×W×3)."""

    item: Item
    pixels: np.ndarray
    coding: hevc.Coding | None  # None for a JPEG
    colour: hevc.Colour | None


def code(data: bytes, stored: np.ndarray, quality: int | None) -> dict[int, hevc.Picture]:
    """Code pixels as the pictures of the HEIF file `data`, by the numbers of their items.

    stored: H×W×3 or H×W×4, uint8 or uint16; turned as in the file, but cropped. Opacity is not coded, as its item stays.
    quality: 1 to 100 as libheif counts, where phones use about 70. None takes the photo's own quantiser less one. At the same
    quantiser, new pixels with more contrast can lose 0.2 dB more than the old ones have lost; at one less, they lose no more
    (12 photos and quantisers measured, 15 to 30). Some phones (Samsung's A32) name a coarse quantiser and refine it block by
    block, which shows when the new pictures are far smaller. These are coded once more, with a finer one. x265 is asked for its
    fastest search: a tenth of the time of libheif's choice, for a tenth more bytes at equal loss.
    """
    file = heif.opened(data)
    stored = stored if stored.shape[2] == 3 else cv2.cvtColor(stored, cv2.COLOR_RGBA2RGB)
    tasks = [task for item in (file.primary, *file.thumbnails()) for task in _tasks(file, item, stored)]
    threads = cv2.getNumThreads()  # the workers of an archive set it to 1
    # Tiles are coded side by side, each by one thread. A single large picture needs x265's own threads.
    extra: dict[str, Any] = _ONE_THREAD if threads == 1 or len(tasks) > _FEW else {"x265:pools": threads}
    with ThreadPoolExecutor(threads) as pool:

        def coded(finer: int) -> list[hevc.Picture]:
            return list(pool.map(lambda task: _coded(task, quality, finer, extra), tasks))

        pictures = coded(1)
        old = sum(len(file.content(task.item)) for task in tasks)
        share = sum(len(picture.data) for picture in pictures) / max(1, old)
        if quality is None and share < _TOO_SMALL:
            pictures = coded(1 + math.ceil(_STEPS_TO_HALVE * math.log2(1 / share)))
    return {task.item.number: picture for task, picture in zip(tasks, pictures, strict=True)}


def _tasks(file: Heif, item: Item, values: np.ndarray) -> Iterator[_Task]:
    """Cut the photo's pixels, turned as the photo is stored, into an item's pictures."""
    width, height = heif_layout.size(file, item)
    left, top, shown_width, shown_height = heif_layout.crop(file, item, width, height)
    turn, turn_of_photo = heif_layout.orientation(file, item), heif_layout.orientation(file, file.primary)
    if turn != turn_of_photo:
        values = as_stored(upright(values, turn_of_photo), turn)
    if values.shape[:2] != (shown_height, shown_width):
        if item is file.primary:
            raise ValueError("the new pixels are of another size")
        if max(shown_height, shown_width) > max(values.shape[:2]):
            raise ValueError("a thumbnail is larger than the photo")
        values = cv2.resize(values, (shown_width, shown_height), interpolation=cv2.INTER_AREA)
    tint = heif_layout.colour(file, item)
    if item.kind == _JPEG:
        yield _Task(item, _cell(values, -left, -top, width, height), None, tint)
        return
    rows, columns = heif_layout.grid(file, item)
    pictures = file.pictures(item)
    codings = [heif_layout.coding(file, picture) for picture in pictures]
    cell_width, cell_height = codings[0].width, codings[0].height
    if any((coding.width, coding.height) != (cell_width, cell_height) for coding in codings):
        raise ValueError("the tiles differ in size")
    whole_width, whole_height = columns * cell_width, rows * cell_height
    if whole_width < left + values.shape[1] or whole_height < top + values.shape[0]:
        raise ValueError("the tiles do not cover the photo")
    if whole_width * whole_height > 2 * MAX_PIXELS:
        raise ValueError("the tiles are far larger than the photo")
    for number, (picture, coding) in enumerate(zip(pictures, codings, strict=True)):
        row, column = number // columns * cell_height, number % columns * cell_width
        cell = _cell(values, column - left, row - top, cell_width, cell_height)
        yield _Task(picture, cell, coding, tint or coding.colour)


def _cell(values: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A part of a picture. Where it reaches beyond the picture, it repeats the outermost pixels."""
    high, wide = values.shape[:2]
    if left >= 0 and top >= 0 and left + width <= wide and top + height <= high:
        return values[top : top + height, left : left + width]
    rows = np.clip(np.arange(top, top + height), 0, high - 1)
    columns = np.clip(np.arange(left, left + width), 0, wide - 1)
    return values[rows][:, columns]


def _coded(task: _Task, quality: int | None, finer: int, extra: dict[str, Any]) -> hevc.Picture:
    if task.coding is None or task.colour is None:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(to_8bit(task.pixels))).save(buffer, "JPEG", quality=quality or 85)
        return hevc.Picture(b"", buffer.getvalue())
    coding, tint = task.coding, task.colour
    values, mode = _planes(task.pixels, coding)
    # x265 takes no quantiser below zero, and 0 would mean a coding without loss, which not all decoders know.
    quantiser = max(1, (_PHONES_QUANTISER if coding.qp is None else coding.qp) - finer)
    if quality is not None:
        quantiser = max(1, (100 - quality) // 2)
    options = {**_FAST, **extra, "x265:qp": quantiser, "chroma": _CHROMA.get(coding.chroma, 420)}
    # libheif tells the coder nothing of a grey picture's colours, and says sRGB where the old stream left it open.
    options |= {"x265:range": "full" if tint.is_full_range else "limited", "x265:colorprim": tint.primaries}
    options |= {"x265:transfer": tint.transfer, "x265:colormatrix": tint.matrix}
    buffer = io.BytesIO()
    pillow_heif.encode(
        mode,
        (values.shape[1], values.shape[0]),
        values.data.cast("B"),
        buffer,
        enc_params=options,
        bit_depth=coding.depth,
        color_primaries=tint.primaries,
        transfer_characteristics=tint.transfer,
        matrix_coefficients=tint.matrix,
        full_range_flag=int(tint.is_full_range),
    )
    new = heif.opened(buffer.getvalue())
    config = next(new.all_of(new.primary, b"hvcC"), None)
    if config is None:
        raise ValueError("the new pixels were not coded as HEVC")
    return hevc.cropped(hevc.Picture(new.body(config), new.content(new.primary)), coding.width, coding.height)


def _planes(pixels: np.ndarray, coding: hevc.Coding) -> tuple[np.ndarray, str]:
    """The pixels as pillow_heif takes them, with its name for their layout."""
    mode = "RGB" if coding.chroma else "L"
    values = np.ascontiguousarray(pixels if coding.chroma else pixels[..., 1])
    if coding.depth == 8:
        return to_8bit(values), mode
    white = (1 << coding.depth) - 1
    deep = values.astype(np.uint32) * (257 if values.dtype == np.uint8 else 1)
    return ((deep * white + 32767) // 65535).astype(np.uint16), f"{mode};{coding.depth}"
