"""The built-in photos of the demo: real photos from the wheels of scikit-image and scikit-learn, and dulled copies."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from naturaltone.infra.dull import FAULTS
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.stored import encode_jpeg

_PHOTOS = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "chelsea": ("skimage.data", "chelsea.png"),
    "coffee": ("skimage.data", "coffee.png"),
    "motorcycle": ("skimage.data", "motorcycle_left.png"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "china": ("sklearn.datasets.images", "china.jpg"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
}
# The demo trains neither on these nor on their dulled copies.
_UNSEEN = ("coffee", "flower")


@dataclass(frozen=True, kw_only=True)
class DemoPhotos:
    """Three folders of photos: inputs and natural photos to train on, and inputs that training never sees."""

    inputs: Path
    natural: Path
    unseen: Path


def write_demo_photos(folder: Path) -> DemoPhotos:
    """Write the photos of the demo into folders below `folder`."""
    samples = DemoPhotos(inputs=folder / "inputs", natural=folder / "natural", unseen=folder / "unseen")
    for path in (samples.inputs, samples.natural, samples.unseen):
        path.mkdir(parents=True)
    for name, (package, file) in _PHOTOS.items():
        pixels = decode(files(package).joinpath(file).read_bytes()).pixels
        if name not in _UNSEEN:
            (samples.natural / f"{name}.jpg").write_bytes(encode_jpeg(pixels))
        rgb = pixels.astype(np.float32) / 255
        for fault, dull in FAULTS.items():
            dulled = np.clip(dull(rgb) * 255 + 0.5, 0, 255).astype(np.uint8)
            target = samples.unseen if name in _UNSEEN else samples.inputs
            (target / f"{name}-{fault}.jpg").write_bytes(encode_jpeg(dulled))
    return samples
