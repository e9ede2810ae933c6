"""How an archive is to be enhanced."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass

from naturaltone import __version__
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.serving.enhancer import check_strength


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """What the user chose for an archive. Construction raises `UserError` for a value out of range.

    strength: 0 to 1.5. quality: of JPEG, WebP and AVIF; None: at least the photo's own. drop_hdr: write photos that hold HDR
    gain maps or motion videos without these, instead of leaving them alone. photos_only: leave screenshots and drawings alone.
    copy_others: copy what is not enhanced, videos too. keep_mtime: outputs have their source's time of change. limit: at most
    so many files this time. include, exclude: globs for names below the source.
    """

    strength: float = 1.0
    quality: int | None = None
    drop_hdr: bool = False
    photos_only: bool = False
    copy_others: bool = False
    keep_mtime: bool = True
    limit: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UserError(
                f"--quality {self.quality}: must be between 1 and 100; leave it out to keep each photo's own"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: must be at least 1")

    @property
    def of_enhanced(self) -> str:
        """The settings that decide how an enhanced photo looks, as JSON: with others it is enhanced again."""
        return json.dumps({"strength": self.strength, "quality": self.quality})

    @property
    def of_skipped(self) -> str:
        """The settings that decide whether a file is left alone, copied or refused, as JSON: with others it is tried again.

        The version is among them, since another one may read more formats.
        """
        chosen = {"hdr": self.drop_hdr, "photos_only": self.photos_only, "copy": self.copy_others}
        return json.dumps(chosen | {"version": __version__, "heif": HAS_HEIF})

    def takes(self, name: str) -> bool:
        """Whether `include` and `exclude` let a file through."""
        included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
