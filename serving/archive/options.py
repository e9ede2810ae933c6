"""The options for enhancing an archive."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from typing import Literal

from naturaltone import __version__
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.encode import Extras
from naturaltone.pipeline.photo.formats import HAS_HEIF, HEIF_SUFFIXES
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.enhancer import check_strength

Heic = Literal["heic", "jpeg", "avif", "skip"]
_CONVERTED = {"jpeg": ".jpg", "avif": ".avif"}


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """What the user chose for an archive. Construction raises `UserError` for a value out of range.

    strength: 0 to 1.5. quality: of all but PNG and TIFF, 1 to 100; None for at least the quality of the photo. hdr: what
    becomes of photos with HDR gain maps, motion videos or other pictures; see `encode`. heic: what becomes of HEICs: the same
    format, another one, or nothing.
    photos_only: leave screenshots and drawings alone. copy_others: copy files that are not enhanced, videos too.
    keep_mtime: give outputs the modification time of their source. limit: the most files that this run processes.
    include, exclude: globs for names below the source.
    """

    strength: float = 1.0
    quality: int | None = None
    hdr: Extras = "keep"
    heic: Heic = "heic"
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
                f"--quality {self.quality}: must be between 1 and 100; leave it out to keep the quality of each photo"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: must be at least 1; leave it out to process all files")

    @property
    def of_enhanced(self) -> str:
        """The settings that decide the look of an enhanced photo, as JSON. If they change, it is enhanced again."""
        chosen = {"strength": self.strength, "quality": self.quality}
        # Only what differs from the default, so that archives from before these options need not be made again.
        hdr = {"hdr": self.hdr} if self.hdr == "drop" else {}
        return json.dumps(chosen | hdr | ({"heic": self.heic} if self.converts else {}))

    @property
    def of_skipped(self) -> str:
        """The settings that decide whether a file is left alone, copied or refused, as JSON.

        If they change, the file is tried again. They include the version, since another version may read more formats.
        """
        chosen = {"hdr": self.hdr, "heic": self.heic, "photos_only": self.photos_only, "copy": self.copy_others}
        return json.dumps(chosen | {"version": __version__, "heif": HAS_HEIF})

    @property
    def converts(self) -> bool:
        """Whether HEICs become another format, and so get another name."""
        return self.heic in _CONVERTED

    def format_of(self, name: str) -> str | None:
        """The format, as `convert` takes it, that the photo `name` becomes; None for its own."""
        return self.heic.upper() if self.converts and name.lower().endswith(HEIF_SUFFIXES) else None

    def output_of(self, name: str) -> str:
        """The name of the enhanced photo `name`: its own, but for the suffix of a HEIC that becomes another format."""
        return name if self.format_of(name) is None else name[: name.rindex(".")] + _CONVERTED[self.heic]

    def refuse_skipped(self, name: str) -> None:
        """Raise the `ImageError` of a HEIC that these options leave alone."""
        if self.heic == "skip" and name.lower().endswith(HEIF_SUFFIXES):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, "a HEIC, which --heic skip leaves alone")

    def takes(self, name: str) -> bool:
        """Whether `include` and `exclude` let a file through."""
        included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
