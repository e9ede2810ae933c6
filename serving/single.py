"""Enhances one photo file into another file."""

from __future__ import annotations

import os
from collections.abc import Callable

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.encode import Extras, check_rewritable
from naturaltone.serving.enhancer import EnhancedFile, Enhancer
from naturaltone.serving.outputs import read_output, refuse_foreign


def enhance_photo(
    source: str,
    target: str,
    *,
    load: Callable[[], Enhancer],
    strength: float = 1.0,
    quality: int | None = None,
    extras: Extras = "keep",
    format: str | None = None,
    exact: bool = False,
) -> tuple[EnhancedFile, str]:
    """Enhance the photo file `source` into `target` (both are URIs); returns the written file and the model's version.

    load: loads the model; called only after the header of the photo passed the checks. Other arguments: see
    `Enhancer.enhance_file`.
    `UserError` if `target` is the photo itself or a folder. `ImageError` if `target` is a file that naturaltone did not
    write, or if the photo cannot be enhanced.
    """
    if storage.resolve(source) == storage.resolve(target):
        raise UserError(f"'{target}' is the photo itself, and originals stay untouched; choose another name")
    if os.path.isdir(target):
        raise UserError(f"'{target}' is a folder; give the name of the file to write")
    output = read_output(target)
    if output is not None and output.stamp is None:
        refuse_foreign(target)
    data = storage.read_bytes(source)
    check_rewritable(data, extras=extras)
    enhancer = load()
    enhanced = enhancer.enhance_file(
        data, strength=strength, quality=quality, extras=extras, format=format, exact=exact
    )
    storage.write_bytes(target, enhanced.data)
    return enhanced, enhancer.version
