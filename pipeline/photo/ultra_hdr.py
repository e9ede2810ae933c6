"""Write a photo and its gain map as one JPEG, by Google's Ultra HDR 1.0 and by ISO 21496-1: viewers read one or the other."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from naturaltone.pipeline.photo import mpf
from naturaltone.pipeline.photo.segments import APP1, APP2, APPS, SIGNATURE, XMP, pack, read_segments
from naturaltone.pipeline.photo.trailer import ISO_GAIN_MAP
from naturaltone.pipeline.photo.xmp import gain_map_packet

_VERSIONS = bytes(4)  # the least version that a reader must know, and the writer's
_ONE_CHANNEL = 0x40  # flags: one meaning for all channels, in the colours of the photo
_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the values of a gain map mean, by the names of ISO 21496-1.

    A value v, 0 to 1, stands for g = low + (high - low) · v^(1/gamma). With photo and HDR picture in linear light, HDR =
    (photo + base_offset) · 2^g - hdr_offset. Screens with a headroom of `base_headroom` show the photo, and from `hdr_headroom`
    on the whole HDR picture. Headrooms are in stops, log2 of the ratio to white.
    """

    low: Fraction
    high: Fraction
    gamma: Fraction
    base_offset: Fraction
    hdr_offset: Fraction
    base_headroom: Fraction
    hdr_headroom: Fraction

    def packed(self) -> bytes:
        """As ISO 21496-1 writes it, from the versions on (annex C.2)."""
        headrooms = [self.base_headroom, self.hdr_headroom]
        channel = [self.low, self.high, self.gamma, self.base_offset, self.hdr_offset]
        numbers = [part for value in (*headrooms, *channel) for part in (value.numerator, value.denominator)]
        return _VERSIONS + struct.pack(">B4IiIiIIIiIiI", _ONE_CHANNEL, *numbers)


def unpacked(content: bytes) -> Meaning | None:
    """The inverse of `Meaning.packed`; None for what Ultra HDR 1.0 cannot say: other versions, channels or colours."""
    try:
        version, _, flags, *numbers = struct.unpack_from(">HHB4IiIiIIIiIiI", content)
        base, hdr, *channel = (Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
    except (struct.error, ZeroDivisionError):
        return None
    if version or flags != _ONE_CHANNEL or hdr <= base or channel[2] <= 0:
        return None
    low, high, gamma, base_offset, hdr_offset = channel
    return Meaning(
        low=low,
        high=high,
        gamma=gamma,
        base_offset=base_offset,
        hdr_offset=hdr_offset,
        base_headroom=base,
        hdr_headroom=hdr,
    )


def coded(values: np.ndarray, meaning: Meaning) -> bytes:
    """A gain map as a JPEG that says what it means. values: h×w or h×w×3, uint8."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    numbers = {
        "GainMapMin": meaning.low,
        "GainMapMax": meaning.high,
        "Gamma": meaning.gamma,
        "OffsetSDR": meaning.base_offset,
        "OffsetHDR": meaning.hdr_offset,
        "HDRCapacityMin": meaning.base_headroom,
        "HDRCapacityMax": meaning.hdr_headroom,
    }
    packet = gain_map_packet({name: float(value) for name, value in numbers.items()})
    described = pack(APP1, XMP + packet) + pack(APP2, ISO_GAIN_MAP + meaning.packed())
    data = buffer.getvalue()
    place = _place(data)
    return data[:place] + described + data[place:]


def joined(photo: bytes, gain_map: bytes) -> bytes:
    """The JPEG `photo`, whose XMP packet is one of `xmp.with_gain_map`, with the JPEG `gain_map` after it."""
    place = _place(photo)
    iso = pack(APP2, ISO_GAIN_MAP + _VERSIONS)
    base = place + len(iso) + 4 + len(mpf.PREFIX)
    end = len(photo) + len(iso) + 4 + len(mpf.PREFIX) + len(mpf.pair(0, 0, 0))
    index = pack(APP2, mpf.PREFIX + mpf.pair(end, len(gain_map), end - base))
    return b"".join([photo[:place], iso, index, photo[place:], gain_map])


def _place(data: bytes) -> int:
    """The offset after the last application segment."""
    segments, _ = read_segments(data)
    return max((segment.end for segment in segments if segment.marker in APPS), default=len(SIGNATURE))
