"""Finds ImageMagick, whose automatic correction our pictures and times are compared with."""

from __future__ import annotations

import functools
import shutil
import subprocess

_NAMES = ("magick", "/usr/bin/convert", "convert")


@functools.cache
def imagemagick() -> str | None:
    """The path of ImageMagick's program; None if it is not installed. GraphicsMagick has a `convert` too, which is no match."""
    for name in _NAMES:
        if path := shutil.which(name):
            told = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and "ImageMagick" in told.stdout:
                return path
    return None
