"""A decoded photo shows its colours and its opacity apart."""

from __future__ import annotations

import numpy as np

from naturaltone.pipeline.photo.decode import decode


def test_colours_and_opacity_are_views_of_one_array(photo: np.ndarray, to_file) -> None:  # type: ignore[no-untyped-def]
    opacity = np.full((*photo.shape[:2], 1), 77, np.uint8)
    decoded = decode(to_file(np.dstack([photo, opacity]), "PNG"))
    assert np.array_equal(decoded.pixels, photo) and (decoded.alpha == 77).all()
    assert np.shares_memory(decoded.pixels, decoded.packed)
    assert decoded.megapixels == photo.shape[0] * photo.shape[1] / 1e6


def test_a_photo_without_opacity_has_none(photo: np.ndarray, to_file) -> None:  # type: ignore[no-untyped-def]
    decoded = decode(to_file(photo, "PNG"))
    assert decoded.alpha is None and decoded.pixels.shape == photo.shape
