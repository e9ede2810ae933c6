"""Makes Ultra HDR photos, and renders them as an HDR screen does, by the formulas of ISO 21496-1."""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image, MpoImagePlugin

from tests.pipeline.photo.files import RDF, XMP, file, segment

_GAIN_MAP = '<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" {}/>'
_CONTAINER = (
    '<rdf:Description rdf:about="" xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"><Container:Directory><rdf:Seq>'
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" '
    'Item:Length="{}"/></rdf:li></rdf:Seq></Container:Directory></rdf:Description>'
)
_OFFSET = 1 / 64  # of base and HDR picture, as phones have it


def ultra_hdr(base: np.ndarray, stops: np.ndarray, *, most: float, order: str = "<", trailer: bytes = b"") -> bytes:
    """An Ultra HDR JPEG with Google's container, a multi-picture index and a gain map.

    base: H×W×3 uint8 sRGB. stops: how much lighter than the base the HDR picture is, h×w, 0 to `most`.
    """
    map_values = np.round(np.clip(stops / most, 0, 1) * 255).astype(np.uint8)
    described = f'hdrgm:GainMapMin="0" hdrgm:GainMapMax="{most}" hdrgm:HDRCapacityMax="{most}"'
    gain_map = _with_segment(
        file(Image.fromarray(map_values), "JPEG", quality=95), 0xE1, _packet(_GAIN_MAP.format(described))
    )
    photo = file(Image.fromarray(base), "JPEG", quality=95, subsampling=0)
    photo = _with_segment(photo, 0xE1, _packet(_CONTAINER.format(len(gain_map))))
    size = 8 + 2 + 12 * 3 + 4 + 32
    photo = _with_segment(photo, 0xE2, b"MPF\0" + bytes(size))
    place = photo.index(b"MPF\0") + 4
    index = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 3)
    index += struct.pack(f"{order}HHI", 0xB000, 7, 4) + b"0100"
    index += struct.pack(f"{order}HHIIHHIII", 0xB001, 4, 1, 2, 0xB002, 7, 32, 50, 0)
    index += struct.pack(f"{order}IIIHH", 0x030000, len(photo), 0, 0, 0)
    index += struct.pack(f"{order}IIIHH", 0, len(gain_map), len(photo) - place, 0, 0)
    return photo[:place] + index + photo[place + size :] + gain_map + trailer


def pictures(data: bytes) -> tuple[np.ndarray, np.ndarray, float]:
    """The base in linear light (H×W×3), the gain in stops at its size (H×W), and the most that a screen can show, in stops.

    The map is found by the multi-picture index, as Pillow reads it.
    """
    image = MpoImagePlugin.MpoImageFile(io.BytesIO(data))  # `open` takes an Ultra HDR photo for a plain JPEG
    base = np.asarray(image.convert("RGB"))
    image.seek(1)
    most = float(re.search(r'GainMapMax="([\d.]+)"', str(image.info["xmp"]))[1])  # type: ignore[index]
    values = np.asarray(image.convert("L")).astype(np.float32) / 255
    stops = cv2.resize(values, base.shape[1::-1], interpolation=cv2.INTER_LINEAR) * most
    return linear(base), stops, most


def rendered(data: bytes) -> np.ndarray:
    """The HDR picture at full headroom, H×W×3 in linear light; 1 is the white of the base."""
    base, stops, _ = pictures(data)
    return (base + _OFFSET) * np.exp2(stops)[..., None] - _OFFSET


def linear(pixels: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 sRGB in linear light, 0 to 1."""
    values = pixels.astype(np.float32) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _packet(inside: str) -> bytes:
    return XMP + RDF.format(inside).encode()


def _with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + segment(marker, content) + data[2:]
