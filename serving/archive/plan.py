"""What an archive's run has to do: every file of the source, but for those that the report and the target have as done."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.listing import Problem, list_files
from naturaltone.pipeline.photo.formats import HAS_HEIF, REFUSED_SUFFIXES, SUFFIXES
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.report import (
    COPIED,
    ENHANCED,
    FAILED,
    FOLDER,
    LOCK,
    SCHEMA,
    SKIPPED,
    Entry,
    Report,
    to_text,
)
from naturaltone.serving.enhancer import check_strength

PHOTO, REFUSED, SIDECAR, OTHER, PROBLEM = "photo", "refused", "sidecar", "other", "problem"

_SIDECAR_SUFFIX = ".xmp"
_BROKEN = [reason for reason in Reason if reason.lasts and not reason.left_alone]
_LEFTOVER = re.compile(rf"(^|/)\.[0-9a-f]{{8}}{re.escape(storage.TEMPORARY_SUFFIX)}$")
_WANTED = pa.schema(
    [
        ("source", pa.string()),
        ("fingerprint", pa.string()),
        ("name", pa.binary()),  # as the disk has it, which need not be text
        ("kind", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.float64()),
        ("problem", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an archive is enhanced.

    strength: 0 to 1.5. quality: of JPEG, WebP and AVIF; None: at least the photo's own. drop_hdr: write photos that hold HDR
    gain maps or motion videos without these, instead of skipping them. photos_only: skip screenshots and graphics.
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
        """What decides how an enhanced photo looks, for its key."""
        return json.dumps({"strength": self.strength, "quality": self.quality})

    @property
    def of_skipped(self) -> str:
        """What decides whether a file is skipped, copied or refused, for its key: another version may read more formats."""
        chosen = {"hdr": self.drop_hdr, "photos_only": self.photos_only, "copy": self.copy_others}
        return json.dumps(chosen | {"version": version("naturaltone"), "heif": HAS_HEIF})

    def takes(self, name: str) -> bool:
        """Whether a file is asked for at all."""
        included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do. todo: schema `_WANTED` and `ours` (the target has an output of ours there).

    done: files that were done before. broken: entries of photos that were found broken before, and are the same today.
    """

    source: str
    target: str
    todo: pa.Table
    done: int
    broken: list[Entry]
    model: str
    options: Options

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """Files and bytes to do by kind."""
        counted = self.todo.group_by("kind").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist()
        return {row["kind"]: (row["bytes_count"], row["bytes_sum"]) for row in counted}


def check(source: str, target: str) -> tuple[str, str]:
    """The two places as absolute URIs; refuses, before any work, what would touch originals or cannot be read or written."""
    source, target = storage.absolute(source), storage.absolute(target)
    refuse_nesting(source, target)
    storage.check_folder(source)
    storage.check_writable(target)
    return source, target


def make_plan(source: str, target: str, report: Report, *, model: str, options: Options, is_held: bool = True) -> Plan:
    """List `source` and leave out what the report has as done and `target` still holds.

    is_held: nobody else writes to the target; what a killed run left half-written there is removed. `StorageError` if nothing
    is asked for.
    """
    wanted = _list(source, options)
    if not wanted.num_rows:
        chosen = " that --include and --exclude leave" if options.include or options.exclude else ""
        raise storage.StorageError(f"'{source}': no files{chosen}; check the path")
    # By name, and among all files, not those to be done today: the first of two has the name for good.
    wanted = _without_collisions(wanted.take(pc.sort_indices(wanted["source"])), target)
    there = _outputs(target, is_held=is_held)
    known = report.table.rename_columns([name if name == "source" else f"known_{name}" for name in SCHEMA.names])
    rows = wanted.join(known, "source", join_type="left outer").combine_chunks()
    is_there = pc.is_in(rows["source"], value_set=there)
    status = rows["known_status"]

    def was(wanted_status: str, settings: str) -> pa.ChunkedArray:
        same = pc.and_(pc.equal(status, wanted_status), pc.equal(rows["known_settings"], settings))
        return pc.fill_null(pc.and_(same, pc.equal(rows["fingerprint"], rows["known_fingerprint"])), False)

    was_enhanced = pc.and_(
        was(ENHANCED, options.of_enhanced), pc.fill_null(pc.equal(rows["known_model"], model), False)
    )
    done = pc.or_(
        pc.and_(pc.or_(was_enhanced, was(COPIED, options.of_skipped)), is_there), was(SKIPPED, options.of_skipped)
    )
    is_lasting = pc.is_in(rows["known_reason"], value_set=pa.array(_BROKEN, pa.string()))
    is_broken = pc.and_(was(FAILED, options.of_skipped), is_lasting)
    ours = pc.and_(is_there, pc.is_in(status, value_set=pa.array([ENHANCED, COPIED])))
    failed = pc.fill_null(pc.equal(status, FAILED), False)
    todo = rows.select(_WANTED.names).append_column("ours", ours).append_column("failed", failed)
    todo = todo.filter(pc.invert(pc.or_(done, is_broken)))
    if options.limit is None:
        todo = todo.take(pc.sort_indices(todo["source"]))
    else:  # of the files that count: photos, and those first that did not fail before
        later = pc.add(pc.cast(pc.not_equal(todo["kind"], PHOTO), "int8"), pc.cast(todo["failed"], "int8"))
        keys = [("later", "ascending"), ("source", "ascending")]
        todo = todo.take(pc.sort_indices(todo.append_column("later", later), keys)).slice(0, options.limit)
    todo = todo.drop_columns("failed")
    broken = rows.filter(is_broken).select(["source", *(f"known_{name}" for name in SCHEMA.names[1:])])
    return Plan(
        source=source,
        target=target,
        todo=todo,
        done=pc.sum(done).as_py() or 0,
        broken=[Entry(**row) for row in broken.rename_columns(SCHEMA.names).to_pylist()],
        model=model,
        options=options,
    )


def _list(source: str, options: Options) -> pa.Table:
    """Every file of the source that is asked for, with its kind."""
    columns: dict[str, list[Any]] = {name: [] for name in _WANTED.names}
    for file in list_files(source, stay=True):
        text = to_text(file.relative)
        if not options.takes(file.relative):
            continue
        lowered, problem = file.relative.lower(), file.problem
        if file.relative.startswith(f"{FOLDER}/"):
            problem = Problem(Reason.NOT_FOLLOWED, "the report of an archive that was enhanced before")
        elif not problem and {"", ".", ".."} & set(file.relative.split("/")):
            # Objects may be called anything.
            problem = Problem(Reason.UNSAFE_NAME, "a key that is no path below the source")
        if problem:
            kind = PROBLEM
        elif os.path.basename(lowered).startswith("._"):
            kind = OTHER  # macOS' second half of a file, on disks that have no place for it
        elif lowered.endswith(SUFFIXES):
            kind = PHOTO
        elif lowered.endswith(REFUSED_SUFFIXES):
            kind = REFUSED
        else:
            kind = SIDECAR if lowered.endswith(_SIDECAR_SUFFIX) else OTHER
        values = (text, f"{file.size}-{file.version}", os.fsencode(file.relative), kind, file.size, file.modified)
        text = f"{problem.reason}: {problem.detail}" if problem else ""
        for name, value in zip(columns, (*values, text), strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=_WANTED)


def _outputs(target: str, *, is_held: bool) -> pa.Array:
    """What the target holds, as text."""
    names = []
    if storage.is_s3(target) or os.path.isdir(target):
        for file in list_files(target, stay=True):
            if not _LEFTOVER.search(file.relative):
                names.append(to_text(file.relative))
            elif is_held:
                storage.delete(file.uri)
    return pa.array(names, pa.string())


def _without_collisions(todo: pa.Table, target: str) -> pa.Table:
    """The same, where files that a disk without upper and lower case takes for one are named as problems."""
    folded = pc.utf8_lower(todo["source"])
    numbers = pa.array(range(todo.num_rows), pa.int64())
    first = pa.table({"folded": folded, "number": numbers}).group_by("folded").aggregate([("number", "min")])
    if first.num_rows == todo.num_rows or storage.is_s3(target) or not _folds_case(target):
        return todo
    is_first = pc.is_in(numbers, value_set=first["number_min"].combine_chunks())
    text = "name_collision: the target's disk does not tell upper from lower case, and another file has this name there"
    problem = pc.if_else(is_first, todo["problem"], text)
    kind = pc.if_else(is_first, todo["kind"], PROBLEM)
    todo = todo.set_column(todo.schema.get_field_index("problem"), "problem", problem)
    return todo.set_column(todo.schema.get_field_index("kind"), "kind", kind)


def _folds_case(target: str) -> bool:
    lock = os.path.join(storage.resolve(target)[1], FOLDER)
    return os.path.exists(os.path.join(lock, LOCK.upper()))


def refuse_nesting(source: str, target: str) -> None:
    """`ValueError` where writing to one of two folders could touch the other."""
    kinds = storage.is_s3(source), storage.is_s3(target)
    if kinds[0] != kinds[1]:
        return
    places = [
        os.path.realpath(path) if not kinds[0] else path
        for path in (storage.resolve(uri)[1] for uri in (source, target))
    ]
    above = [{place, *_above(place)} for place in places] if kinds[0] else [_identities(place) for place in places]
    # By what they are, not how they are called: disks may have several names for a folder.
    own = [place if kinds[0] else _identity(place) for place in places]
    if places[0] == places[1] or own[0] in above[1] or own[1] in above[0]:
        raise UserError(
            f"'{target}' and '{source}' lie in each other; originals stay untouched: choose a folder elsewhere"
        )


def _above(place: str) -> list[str]:
    """The folders that a path lies in."""
    parts = place.split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]


def _identity(place: str) -> tuple[int, int] | str:
    try:
        stat = os.stat(place)
    except OSError:  # not there yet
        return place
    return stat.st_dev, stat.st_ino


def _identities(place: str) -> set[tuple[int, int] | str]:
    return {_identity(folder) for folder in (place, *_above(place))}
