"""An AVIF's depth and subsampling are read from its header."""

from __future__ import annotations

import numpy as np
import pytest

from naturaltone.pipeline.photo.avif import Coding, coding


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_what_pillow_wrote_is_read(photo: np.ndarray, to_file, subsampling: str) -> None:  # type: ignore[no-untyped-def]
    assert coding(to_file(photo, "AVIF", subsampling=subsampling)) == Coding(8, subsampling)


@pytest.mark.parametrize(("flags", "depth"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_every_bit_depth_is_read(flags: int, depth: int) -> None:
    assert coding(b"\0\0\0\x0cav1C\x81\x05" + bytes([flags, 0])).depth == depth


@pytest.mark.parametrize("data", [b"", b"no box", b"av1C\x81"])
def test_a_file_without_the_box_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="does not say"):
        coding(data)
