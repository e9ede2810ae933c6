"""Limits are checked before a file is opened."""

from __future__ import annotations

from tests.pipeline.photo.files import reason_of


def test_a_file_of_too_many_bytes_is_refused_before_it_is_opened() -> None:
    assert reason_of(b"no image at all", max_bytes=10) == "too_large"
