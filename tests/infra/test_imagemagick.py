"""Only ImageMagick itself counts: other programs are called `convert` too, and some are broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from naturaltone.infra import imagemagick as module
from naturaltone.infra.imagemagick import imagemagick


@pytest.mark.parametrize(
    ("script", "is_it"),
    [
        ("echo Version: ImageMagick 7.1.1-21", True),
        ("echo GraphicsMagick 1.3.40", False),
        ("echo ImageMagick; exit 1", False),
    ],
)
def test_the_program_is_known_by_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, is_it: bool
) -> None:
    program = tmp_path / "magick"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "_NAMES", ("magick",))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    imagemagick.cache_clear()
    assert imagemagick() == (str(program) if is_it else None)
    imagemagick.cache_clear()
