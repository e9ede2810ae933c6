"""Tries a bundle in a fresh process: it must load there, and enhance photos of every format."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np

from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import convert
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.selftest import self_test
from naturaltone.training.checkpoint import load_bundle

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")  # PNG and TIFF with 16 bits a channel
_PHOTOS = 4  # each in every format: 20 files
_SECONDS = 300.0


class SmokeTestFailed(UserError):
    """The bundle cannot be used. The message says what failed."""


def smoke_test(bundle: Path, photos: Iterable[bytes]) -> int:
    """Load the bundle in a fresh process and enhance the first four photos in every format; returns the number of files.

    photos: JPEG files. `SmokeTestFailed` if the bundle is damaged, its process dies or hangs, or a result is no photo.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, bundle, list(islice(photos, _PHOTOS))))
    process.start()
    sender.close()  # then the pipe ends with the process
    try:
        problem = receiver.recv() if receiver.poll(_SECONDS) else f"no end after {_SECONDS:.0f} s"
    except EOFError:
        problem = "the process died"
    finally:
        process.kill()
        process.join()
    if problem:
        raise SmokeTestFailed(f"the model in '{bundle}' failed its smoke test: {problem}")
    return _PHOTOS * len(FORMATS)


def _report(sender: Connection, bundle: Path, photos: list[bytes]) -> None:
    sender.send(_try(bundle, photos))


def _try(bundle: Path, photos: list[bytes]) -> str:
    """What failed; "" if nothing did. It is text, because not every exception can be sent to another process."""
    what = "it cannot be loaded"
    try:
        enhancer = Enhancer(load_bundle(bundle), version=bundle.name)
        what = "the reference photo"
        self_test(enhancer)
        for data in photos:
            for format in FORMATS:
                what = f"a photo as {format}"
                file = _as_format(data, format)
                before, after = decode(file), decode(enhancer.enhance_file(file).data)
                if (after.format, after.packed.shape) != (before.format, before.packed.shape):
                    return f"{what} came back as {after.format} of another size"
    except Exception as error:  # also a bug of ours: the model that shows it must not serve
        return f"{what}: {type(error).__name__}: {first_line(error)}"
    return ""


def _as_format(data: bytes, format: str) -> bytes:
    photo = decode(data)
    if format in ("PNG", "TIFF"):
        deep = np.ascontiguousarray(photo.pixels[..., ::-1]).astype(np.uint16) * 257
        return bytes(cv2.imencode(f".{format.lower()}", deep)[1])
    return data if format == photo.format else convert(photo, photo.packed, format=format)
