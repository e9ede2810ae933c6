"""One file of an archive to process: a row of the plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset.tables import schema_of
from naturaltone.serving.archive.names import from_text


class Kind(StrEnum):
    """What a file is, by its name and its neighbours."""

    PHOTO = "photo"
    REFUSED = "refused"  # a photo in a format that is not enhanced
    SIDECAR = "sidecar"  # it belongs to a photo, and is always copied
    OTHER = "other"
    PROBLEM = "problem"  # only listed; it cannot or must not be read


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """A file below the source.

    source: its name below the source folder, as text (`names.to_text`). name: the bytes of the name on disk, which may
    not be text. fingerprint: changes with the content. size: in bytes. modified: seconds since 1970. reason, detail:
    why a `PROBLEM` is not read. output: the name of the enhanced file, as text; empty for `source`. is_ours: the target has
    a file of this name that naturaltone wrote.
    """

    source: str
    fingerprint: str
    name: bytes
    kind: str
    size: int
    modified: float
    reason: str = ""
    detail: str = ""
    output: str = ""
    is_ours: bool = False

    def uri(self, folder: str) -> str:
        """The URI of the file of this name below `folder`."""
        return storage.join(folder, os.fsdecode(self.name))

    def output_uri(self, folder: str) -> str:
        """The URI of the enhanced file below `folder`."""
        return storage.join(folder, from_text(self.output or self.source))


TASKS = schema_of(FileTask)
