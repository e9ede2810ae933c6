"""The bare enhancer, one in each process: what the archive and the service are measured against, on the same photos."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import torch

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import allocator

_enhancer: Enhancer  # in each of the processes


def bare_enhancers(processes: int, model: str) -> ProcessPoolExecutor:
    """Processes that have loaded the model, with one thread each; `enhance` runs in them."""
    return ProcessPoolExecutor(processes, get_context("spawn"), _start, (model,))


def enhance(data: bytes) -> bytes:
    """Enhance a photo file in one of these processes."""
    return _enhancer.enhance_file(data).data


def photo_of(uri: str, megapixels: float) -> tuple[bytes, float]:
    """A real photo as a JPEG of about `megapixels`; also its exact megapixels."""
    pixels = training_pixels(decode(storage.read_bytes(uri)))
    scale = (megapixels * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return encode_jpeg(pixels, quality=92), pixels.shape[0] * pixels.shape[1] / 1e6


def _start(model: str) -> None:
    global _enhancer
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    _enhancer = Enhancer.load(model)
