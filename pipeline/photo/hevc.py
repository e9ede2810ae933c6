"""Read how HEVC codes a picture (ITU-T H.265), from its parameter sets and its first slice."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

_VPS, _SPS, _PPS, _IDR = 32, 33, 34, (19, 20)  # kinds of NAL units; those of slices are smaller
_INTRA = 2
_SLICE_HEADER = 64  # bytes that surely hold what is read of it
_FIXED = 22  # bytes of an hvcC box before its parameter sets
_EXTENDED_ASPECT = 255
_ESCAPED = re.compile(rb"\0\0(?=[\0-\3])")
_MAX_SETS = 64  # of each kind of reference pictures (7.4.3.2.1)


@dataclass(frozen=True)
class Picture:
    """A coded picture: the content of its hvcC box, and its slices, each after its length in 4 bytes."""

    config: bytes
    data: bytes


@dataclass(frozen=True)
class Colour:
    """Primaries, transfer and matrix as ITU-T H.273 numbers them, and whether the values use the full range."""

    primaries: int
    transfer: int
    matrix: int
    is_full_range: bool


@dataclass(frozen=True)
class Coding:
    """How a picture is coded.

    width, height: what a decoder shows. chroma: 0 for grey, 1 for 4:2:0, 2 for 4:2:2, 3 for 4:4:4. depth: bits a channel.
    colour: as the stream says; what it does not say is 2 (unspecified) and the limited range. qp: the first slice's quantiser;
    None if it cannot be read.
    """

    width: int
    height: int
    chroma: int
    depth: int
    colour: Colour
    qp: int | None


@dataclass(frozen=True)
class _Sequence:
    """What a sequence parameter set says. `window`: the offset of its conformance window in bits, and the offset after it."""

    coding: Coding
    coded_width: int
    coded_height: int
    window: tuple[int, int]
    has_separate_planes: bool
    has_offset_filter: bool


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)
        self.offset = 0

    def number(self, size: int) -> int:
        self._left -= size
        self.offset += size
        if self._left < 0:
            raise ValueError("a parameter set of the HEVC stream is cut short")
        return self._value >> self._left & (1 << size) - 1

    def flag(self) -> bool:
        return bool(self.number(1))

    def unsigned(self) -> int:
        """An Exp-Golomb code (9.2)."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > 32:
                raise ValueError("a parameter set of the HEVC stream is broken")
        return (1 << zeros) - 1 + self.number(zeros)

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def coding(config: bytes, data: bytes) -> Coding:
    """Read a picture's coding; `ValueError` if its parameter sets are missing or broken."""
    sequence = _sequence(_unescaped(_first(config, _SPS)))
    try:
        qp = _quantiser(config, data, sequence)
    except ValueError:
        qp = None
    return replace(sequence.coding, qp=qp)


def cropped(picture: Picture, width: int, height: int) -> Picture:
    """Return the picture with a window that shows only `width`×`height` of it, from its top left corner."""
    old = _first(picture.config, _SPS)
    plain = _unescaped(old)
    sequence = _sequence(plain)
    if (sequence.coding.width, sequence.coding.height) == (width, height):
        return picture
    unit_x, unit_y = _unit(sequence.coding.chroma)
    right, rest_right = divmod(sequence.coded_width - width, unit_x)
    bottom, rest_bottom = divmod(sequence.coded_height - height, unit_y)
    if rest_right or rest_bottom or right < 0 or bottom < 0:
        raise ValueError(f"the new pixels cannot be coded in {width}×{height}")
    # The set ends with a one and zeros that fill its last byte.
    bits = f"{int.from_bytes(plain, 'big'):0{8 * len(plain)}b}".rstrip("0")[:-1]
    start, end = sequence.window
    window = "1" + "".join(_code(number) for number in (0, right, 0, bottom))
    bits = bits[:start] + window + bits[end:] + "1"
    bits += "0" * (-len(bits) % 8)
    new = _ESCAPED.sub(b"\0\0\3", int(bits, 2).to_bytes(len(bits) // 8, "big"))
    config = picture.config.replace(len(old).to_bytes(2, "big") + old, len(new).to_bytes(2, "big") + new)
    return Picture(config, picture.data)


def _code(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _units(config: bytes) -> list[bytes]:
    """The NAL units in an hvcC box (ISO/IEC 14496-15, 8.3.3.1)."""
    if len(config) <= _FIXED:
        raise ValueError("the hvcC box is cut short")
    units, offset = [], _FIXED + 1
    for _ in range(config[_FIXED]):
        count = int.from_bytes(config[offset + 1 : offset + 3], "big")
        offset += 3
        for _ in range(count):
            size = int.from_bytes(config[offset : offset + 2], "big")
            unit = config[offset + 2 : offset + 2 + size]
            if size < 2 or len(unit) < size:
                raise ValueError("the hvcC box is cut short")
            units.append(unit)
            offset += 2 + size
    return units


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _first(config: bytes, kind: int) -> bytes:
    for unit in _units(config):
        if _kind(unit) == kind:
            return unit
    raise ValueError("the hvcC box lacks a parameter set")


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _unit(chroma: int) -> tuple[int, int]:
    """Pixels in each unit of the conformance window (table 6-1)."""
    return {1: (2, 2), 2: (2, 1)}.get(chroma, (1, 1))


@functools.lru_cache(maxsize=4)  # all tiles of a photo share one, and reading it takes milliseconds
def _sequence(unit: bytes) -> _Sequence:
    """Read a sequence parameter set (7.3.2.2)."""
    bits = _Bits(unit)
    bits.number(16 + 4)
    layers = bits.number(3)
    bits.number(1)
    _skip_profile(bits, layers)
    bits.unsigned()
    chroma = bits.unsigned()
    if chroma > 3:
        raise ValueError("the HEVC stream has an impossible kind of chroma")
    has_separate_planes = chroma == 3 and bits.flag()
    coded_width, coded_height = bits.unsigned(), bits.unsigned()
    start = bits.offset
    left, right, top, bottom = [bits.unsigned() for _ in range(4)] if bits.flag() else [0] * 4
    window = start, bits.offset
    depth = 8 + bits.unsigned()
    bits.unsigned()
    order_bits = 4 + bits.unsigned()
    for _ in range(0 if bits.flag() else layers, layers + 1):
        _skip(bits, 3)
    _skip(bits, 6)
    if bits.flag() and bits.flag():
        _skip_scaling_lists(bits)
    bits.flag()
    has_offset_filter = bits.flag()
    if bits.flag():
        bits.number(8)
        _skip(bits, 2)
        bits.flag()
    _skip_reference_sets(bits)
    if bits.flag():
        for _ in range(_at_most(bits.unsigned(), _MAX_SETS)):
            bits.number(order_bits + 1)
    bits.number(2)
    colour = _colour(bits) if bits.flag() else Colour(2, 2, 2, False)
    unit_x, unit_y = _unit(chroma)
    width, height = coded_width - unit_x * (left + right), coded_height - unit_y * (top + bottom)
    if width <= 0 or height <= 0:
        raise ValueError("the HEVC stream has an impossible size")
    return _Sequence(
        Coding(width, height, chroma, depth, colour, None),
        coded_width,
        coded_height,
        window,
        has_separate_planes,
        has_offset_filter,
    )


def _colour(bits: _Bits) -> Colour:
    """Read the start of the usability information (E.2.1)."""
    if bits.flag() and bits.number(8) == _EXTENDED_ASPECT:
        bits.number(32)
    if bits.flag():
        bits.flag()
    if not bits.flag():
        return Colour(2, 2, 2, False)
    bits.number(3)
    is_full_range = bits.flag()
    if not bits.flag():
        return Colour(2, 2, 2, is_full_range)
    return Colour(bits.number(8), bits.number(8), bits.number(8), is_full_range)


def _skip(bits: _Bits, count: int) -> None:
    for _ in range(count):
        bits.unsigned()


def _at_most(number: int, limit: int) -> int:
    if number > limit:
        raise ValueError("a parameter set of the HEVC stream is broken")
    return number


def _skip_profile(bits: _Bits, layers: int) -> None:
    """Pass over profile, tier and level (7.3.3)."""
    bits.number(88 + 8)
    present = [(bits.flag(), bits.flag()) for _ in range(layers)]
    bits.number(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in present:
        bits.number(88 * has_profile + 8 * has_level)


def _skip_scaling_lists(bits: _Bits) -> None:
    """Pass over lists of scaling factors (7.3.4)."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not bits.flag():
                bits.unsigned()
            else:
                _skip(bits, min(64, 1 << (4 + 2 * size)) + (size > 1))


def _skip_reference_sets(bits: _Bits) -> None:
    """Pass over the sets of short-term reference pictures (7.3.7)."""
    pictures = 0
    for number in range(_at_most(bits.unsigned(), _MAX_SETS)):
        if number and bits.flag():
            bits.flag()
            bits.unsigned()
            # A picture counts if it is used, or if it is not used but may be used later.
            pictures = sum(1 for _ in range(pictures + 1) if bits.flag() or bits.flag())
        else:
            pictures = _at_most(bits.unsigned(), _MAX_SETS) + _at_most(bits.unsigned(), _MAX_SETS)
            for _ in range(pictures):
                bits.unsigned()
                bits.flag()


def _quantiser(config: bytes, data: bytes, sequence: _Sequence) -> int | None:
    """The quantiser of the first slice (7.3.6.1); None if it is not the slice of a still picture."""
    unit = _first_slice(data, (config[_FIXED - 1] & 3) + 1)
    if _kind(unit) not in _IDR:
        return None
    bits = _Bits(_unescaped(unit))
    bits.number(16)
    if not bits.flag():
        return None
    bits.flag()
    picture = _Bits(_unescaped(_picture_set(config, bits.unsigned())))
    picture.number(16)
    _skip(picture, 2)
    picture.flag()
    has_output_flag, extra_bits = picture.flag(), picture.number(3)
    picture.number(2)
    _skip(picture, 2)
    start = 26 + picture.signed()
    bits.number(extra_bits)
    if bits.unsigned() != _INTRA:
        return None
    bits.number(has_output_flag + 2 * sequence.has_separate_planes)
    if sequence.has_offset_filter:
        bits.number(1 if sequence.coding.chroma == 0 or sequence.has_separate_planes else 2)
    return start + bits.signed()


def _first_slice(data: bytes, length_size: int) -> bytes:
    """The start of the first slice; other units may stand before it."""
    offset = 0
    while offset + length_size + 2 < len(data):
        size = int.from_bytes(data[offset : offset + length_size], "big")
        offset += length_size
        if size >= 2 and data[offset] >> 1 < _VPS:
            return data[offset : offset + min(size, _SLICE_HEADER)]
        offset += size
    raise ValueError("the HEVC picture has no slice")


def _picture_set(config: bytes, number: int) -> bytes:
    for unit in _units(config):
        if _kind(unit) == _PPS and _Bits(_unescaped(unit[2:])).unsigned() == number:
            return unit
    raise ValueError("the hvcC box lacks a parameter set")
