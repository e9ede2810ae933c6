"""Fixtures that the tests of archives share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

_HDR = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture
def mixed(tmp_path: Path, photo: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """A folder as users have it: photos, sidecars, a video, a RAW file, a screenshot and links."""
    folder = tmp_path / "mixed"
    (folder / "2019").mkdir(parents=True)
    (folder / "2019" / "IMG_1.jpg").write_bytes(to_file(photo, quality=90))
    (folder / "2019" / "IMG_1.jpg.xmp").write_text("<x:xmpmeta/>")
    (folder / "2019" / "IMG_1.xmp").write_text("<x:xmpmeta/>")
    (folder / "2019" / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "2019" / "raw.NEF").write_bytes(b"II*\0")
    (folder / "hdr.jpg").write_bytes(to_file(photo, xmp=_HDR))
    drawing = np.full((120, 160, 3), 230, np.uint8)
    drawing[20:60, 30:90] = (20, 60, 200)
    (folder / "Screenshot.png").write_bytes(to_file(drawing, "PNG"))
    os.symlink("/etc", folder / "out")
    os.symlink("2019/IMG_1.jpg", folder / "inside.jpg")
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1_500_000_000, 1_500_000_000))
    return folder
