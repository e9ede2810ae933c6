"""Read from an AVIF's header how its pixels are coded."""

from __future__ import annotations

from dataclasses import dataclass

_HIGH_BIT_DEPTH, _TWELVE_BIT, _SUBSAMPLED_X, _SUBSAMPLED_Y = 0x40, 0x20, 0x08, 0x04


@dataclass(frozen=True)
class Coding:
    """Bits a channel (8, 10 or 12) and chroma subsampling ("4:4:4", "4:2:2" or "4:2:0")."""

    depth: int
    subsampling: str


def coding(data: bytes) -> Coding:
    """Read the first av1C box (AV1 in ISOBMFF, 2.3); `ValueError` if there is none."""
    start = data.find(b"av1C")
    if start < 0 or start + 7 > len(data):
        raise ValueError("the AVIF does not say how its pixels are coded: it has no av1C box")
    flags = data[start + 6]
    depth = 8 if not flags & _HIGH_BIT_DEPTH else 12 if flags & _TWELVE_BIT else 10
    if not flags & _SUBSAMPLED_X:
        return Coding(depth, "4:4:4")
    return Coding(depth, "4:2:0" if flags & _SUBSAMPLED_Y else "4:2:2")
