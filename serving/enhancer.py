"""Enhancer: a loaded model that enhances photos of any size; the one path for archive, HTTP and evaluation.

G runs at the working resolution it was trained at, so a photo gets the same look at any size. Its change is described
there by an affine colour model at each pixel (a guided filter with the photo as its guide: He, Sun & Tang 2013, and what
that leaves over as an offset) and carried to full resolution strip by strip: edges stay where the photo has them, and no
detail of the photo passes through a resize.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline import images, storage
from training import tracking
from training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, Bundle, load_bundle
from training.step import to_pixels, to_tensor

MAX_STRENGTH = 1.5

PRETRAINED = "pretrained"  # the model that comes with this package, see its card

_RADIUS = 1 / 24  # of the long side: the window in which one affine model explains the change
_EPSILON = 1e-4  # keeps the model of a flat window near a shift; in squared units of [0, 1]
_KEPT = 0.35  # of a value's distance to black and to white: what the photo has in shadows and highlights, it keeps
_STRIP_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class EnhancedFile:
    """An enhanced photo as a file's bytes, and its size."""

    data: bytes
    megapixels: float


class Enhancer:
    """Enhances photos with one model bundle. `version` names the model in reports and headers."""

    def __init__(self, bundle: Bundle, *, version: str) -> None:
        self.bundle = bundle
        self.version = version
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A copy: the bundle itself stays on the CPU, from where it can be sent to other processes.
        self._generator = copy.deepcopy(bundle.generator).to(self._device)

    @classmethod
    def load(cls, uri: str) -> Enhancer:
        """From what `load_model` takes."""
        bundle, version = load_model(uri)
        return cls(bundle, version=version)

    def enhance_file(self, data: bytes, *, strength: float = 1.0) -> EnhancedFile:
        """A photo file in, the enhanced photo in the same format with the same metadata out; `ImageError` if it is none."""
        photo = images.decode(data)
        if photo.read_only:
            raise photo.read_only
        pixels = self.enhance(photo.pixels, strength=strength, icc_profile=photo.icc_profile)
        return EnhancedFile(data=images.encode(photo, pixels), megapixels=pixels.shape[0] * pixels.shape[1] / 1e6)

    def enhance(self, pixels: np.ndarray, *, strength: float = 1.0, icc_profile: bytes | None = None) -> np.ndarray:
        """Enhance H×W×3 uint8 pixels, encoded in `icc_profile` (sRGB if None); the result has the same size and encoding.

        strength: 0 returns the pixels unchanged, 1 the model's result, up to 1.5 beyond it.
        """
        check_strength(strength)
        if strength == 0:
            return pixels
        small = _to_working_size(pixels, self.bundle.working_resolution)
        corrected = images.from_srgb(self.correct(images.to_srgb(small, icc_profile)), icc_profile)
        return _apply(pixels, _affine_models(small, corrected), strength)

    def correct(self, small: np.ndarray) -> np.ndarray:
        """The first corrected image: G on sRGB pixels at working resolution, H×W×3 uint8 in and out."""
        with torch.inference_mode():
            return to_pixels(self._generator(to_tensor(small[None], self._device)))[0]


def check_strength(strength: float) -> None:
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"strength {strength}: must be between 0 (unchanged) and {MAX_STRENGTH}; 1 is the model's own")


def default_model() -> str:
    """What a command takes that names no model: the registry's champion where there is one, else the model shipped here."""
    return tracking.CHAMPION_URI if tracking.has_champion() else PRETRAINED


def load_model(uri: str) -> tuple[Bundle, str]:
    """The bundle that `uri` names, and the version to report for it: a name for people, a digest for the weights.

    uri: `pretrained`, a bundle folder, an `s3://` prefix or a registered model (`models:/name@alias`).
    """
    if uri == PRETRAINED:
        name, bundle = PRETRAINED, load_bundle(Path(__file__).parent / PRETRAINED)
    elif uri.startswith("models:/"):
        folder, version = tracking.download_model(uri)
        name = f"{uri.removeprefix('models:/').split('@')[0].split('/')[0]}/{version}"
        bundle = load_bundle(folder)
    else:
        name = uri.rstrip("/").rpartition("/")[2]
        bundle = _load_stored(uri) if storage.is_s3(uri) else load_bundle(Path(storage.resolve(uri)[1]))
    return bundle, f"{name}-{bundle.digest}"


def _load_stored(uri: str) -> Bundle:
    storage.check_reachable(uri)
    with tempfile.TemporaryDirectory() as local:
        for name in (BUNDLE_JSON, BUNDLE_TENSORS):
            try:
                (Path(local) / name).write_bytes(storage.read_bytes(storage.join(uri, name)))
            except OSError:
                raise storage.StorageError(f"'{uri}': no {name} there; give the folder of a model bundle") from None
        return load_bundle(Path(local))


def _to_working_size(pixels: np.ndarray, long_side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    if scale == 1:
        return pixels
    # A very long panorama is squeezed rather than made thinner than G can see.
    size = [max(images.MIN_SIDE, round(side * scale)) for side in (width, height)]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _affine_models(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The 3×4 colour model [A | b] around each pixel with after = A·before + b in [0, 1]; H×W×3×4 float32.

    A is the least-squares fit of a window. What that leaves over, local contrast most of all, which no single line through
    a window's colours has, is put into the pixel's own b: at the working resolution the models give G's picture exactly.
    """
    x, y = before.astype(np.float32) / 255, after.astype(np.float32) / 255
    side = 2 * max(1, round(_RADIUS * max(x.shape[:2]))) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[:2], -1)
        return cv2.blur(flat, (side, side), borderType=cv2.BORDER_REFLECT).reshape(values.shape)

    mean_x, mean_y = mean(x), mean(y)
    covariance = mean(x[..., :, None] * x[..., None, :]) - mean_x[..., :, None] * mean_x[..., None, :]
    cross = mean(y[..., :, None] * x[..., None, :]) - mean_y[..., :, None] * mean_x[..., None, :]
    identity = np.eye(3, dtype=np.float32)
    # Regularised towards the identity, not towards zero: where the photo is flat, its noise is carried over, not blurred.
    linear = mean(np.linalg.solve(covariance + _EPSILON * identity, np.swapaxes(cross + _EPSILON * identity, -1, -2)))
    linear = linear.swapaxes(-1, -2)
    offset = y - np.einsum("hwij,hwj->hwi", linear, x)
    return np.concatenate([linear, offset[..., None]], axis=-1)


def _apply(pixels: np.ndarray, models: np.ndarray, strength: float) -> np.ndarray:
    """Enlarge the models bilinearly to the photo and apply them, a strip of rows in memory at a time.

    No value comes nearer to black or white than this share of its own distance: what is there to see stays to be seen.
    """
    height, width = pixels.shape[:2]
    rows, columns = models.shape[:2]
    grid = models.reshape(rows, columns, 12) * np.float32(strength)
    grid[..., [0, 5, 10]] += np.float32(1 - strength)  # the identity's share
    grid[..., 3::4] *= 255
    result = np.empty_like(pixels)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        # The pixel centres of cv2.resize, so that both directions agree.
        place = np.clip((np.arange(top, bottom, dtype=np.float32) + 0.5) * (rows / height) - 0.5, 0, rows - 1)
        upper = np.minimum(place.astype(np.int32), max(rows - 2, 0))
        share = (place - upper)[:, None, None]
        strip = grid[upper] * (1 - share) + grid[np.minimum(upper + 1, rows - 1)] * share
        source = pixels[top:bottom].astype(np.float32)
        for channel in range(3):
            model = cv2.resize(
                np.ascontiguousarray(strip[..., 4 * channel : 4 * channel + 4]),
                (width, bottom - top),
                interpolation=cv2.INTER_LINEAR,
            )
            value = model[..., 3].copy()
            for other in range(3):
                value += model[..., other] * source[..., other]
            own = source[..., channel] * _KEPT
            result[top:bottom, :, channel] = np.clip(value, own, own + 255 * (1 - _KEPT)) + 0.5
    return result
