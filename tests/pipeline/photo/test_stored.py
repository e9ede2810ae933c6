"""Rows that are decoded alone equal the same rows of the whole picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo.stored import decode_rgb, decode_rows, encode_jpeg

ToFile = Callable[..., bytes]


@given(data=st.data(), height=st.integers(16, 101), width=st.integers(16, 141))
def test_rows_decoded_alone_equal_the_same_rows_of_the_whole_picture(
    data: st.DataObject, height: int, width: int, photo: np.ndarray
) -> None:
    stored = encode_jpeg(np.ascontiguousarray(photo[:height, :width]))
    top = data.draw(st.integers(0, height - 1))
    bottom = data.draw(st.integers(top + 1, height))
    assert np.array_equal(decode_rows(stored, top, bottom), decode_rgb(stored)[top:bottom])


def test_rows_of_a_jpeg_without_markers_are_decoded_too(photo: np.ndarray, to_file: ToFile) -> None:
    plain = to_file(photo, quality=90)
    assert np.array_equal(decode_rows(plain, 20, 60), decode_rgb(plain)[20:60])
