"""The segments of a JPEG are found with their bounds, and written again as they were."""

from __future__ import annotations

import pytest

from naturaltone.pipeline.photo import segments
from tests.pipeline.photo.files import NEW, RICH, jpeg


@pytest.mark.parametrize("kind", RICH)
def test_the_segments_of_a_file_joined_again_are_the_file(kind: str) -> None:
    data = jpeg(*RICH[kind]())
    found, scan = segments.read_segments(data)
    joined = b"".join(segments.pack(each.marker, data[each.start : each.end]) for each in found)
    assert segments.SIGNATURE + joined + data[scan:] == data
    assert segments.end_of(data + b"behind", scan) == len(data)


def test_a_file_without_an_end_marker_ends_with_its_last_byte() -> None:
    _, scan = segments.read_segments(NEW)
    assert segments.end_of(NEW[:-2], scan) == len(NEW) - 2


def test_a_packet_that_is_too_long_for_a_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        segments.pack(segments.APP1, segments.XMP + bytes(65_503))
