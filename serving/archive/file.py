"""Enhances one file of an archive, copies it or leaves it alone, and always returns an entry for the report."""

from __future__ import annotations

import errno
import hashlib
import time
from dataclasses import dataclass, replace

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.formats import refuse_raw
from naturaltone.pipeline.photo.header import memory_megapixels, size
from naturaltone.pipeline.photo.refusals import ImageError, check_bytes
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.attempts import MOST, attempt
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import COPIED, ENHANCED, FAILED, SKIPPED, Entry
from naturaltone.serving.archive.task import FileTask, Kind
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.outputs import read_output, refuse_foreign
from naturaltone.serving.room import room_for

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the user's quota is used up


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every task of a run knows. source, target: folder URIs. model: the version of the model."""

    source: str
    target: str
    model: str
    options: ArchiveOptions


def process_file(task: FileTask, job: Job, enhancer: Enhancer) -> Entry:
    """Enhance one file, copy it or leave it alone. Never raises: the returned entry names the error."""
    started = time.perf_counter()
    entry = _entry(task, job)
    try:
        if task.kind == Kind.PHOTO:
            with attempt(_key(entry)) as number:
                if number > MOST:
                    raise ImageError(Reason.CRASHES, f"{MOST} workers died at this file; report the bug with the file")
                done = _enhance(task, job, enhancer, entry)
        else:
            listed = entry if task.kind == Kind.SIDECAR else unread_entry(task, job)
            done = replace(_copy(task, job, entry), reason=listed.reason, detail=listed.detail)
    except ImageError as error:
        done = _refused(task, job, entry, error)
    except OSError as error:
        full = error.errno in FULL
        done = replace(entry, status=FAILED, reason=Reason.DISK_FULL if full else Reason.UNREADABLE, detail=str(error))
    except MemoryError:
        detail = "the machine has too little free memory for it; end other programs, and the next run tries it again"
        done = replace(entry, status=FAILED, reason=Reason.UNREADABLE, detail=detail)
    except Exception as error:  # one bad photo must not end the whole run
        done = replace(
            entry, status=FAILED, reason=Reason.INTERNAL, detail=f"{type(error).__name__}: {error}; report this bug"
        )
    return replace(done, seconds=time.perf_counter() - started)


def unread_entry(task: FileTask, job: Job) -> Entry:
    """The entry of a file that is only listed, not read."""
    entry = replace(_entry(task, job), status=SKIPPED, settings=job.options.of_skipped)
    if task.kind == Kind.PROBLEM:
        status = SKIPPED if Reason[task.reason.upper()].left_alone else FAILED
        return replace(entry, status=status, reason=task.reason, detail=task.detail)
    if task.kind == Kind.REFUSED:
        try:
            refuse_raw(task.source)
        except ImageError as error:
            return replace(entry, reason=error.reason, detail=error.detail)
        return replace(
            entry,
            reason=Reason.UNSUPPORTED_FORMAT,
            detail="naturaltone does not enhance this format; use --copy-others to copy it",
        )
    return replace(
        entry,
        reason=Reason.NOT_A_PHOTO,
        detail="by its name, it is neither a photo nor a sidecar of one; use --copy-others to copy it",
    )


def _enhance(task: FileTask, job: Job, enhancer: Enhancer, entry: Entry) -> Entry:
    check_bytes(task.size)
    job.options.refuse_skipped(task.source)
    options, target, key = job.options, task.output_uri(job.target), _key(entry)
    output = read_output(target)
    if output is not None and output.stamp is not None and output.stamp.source == key:
        # An earlier run or worker wrote this output and was killed before it could report it.
        width, height = size(output.data)
        return replace(entry, megapixels=width * height / 1e6)
    data = storage.read_bytes(task.uri(job.source))
    if output is not None and (output.data != data or options.strength > 0):
        stamped = output.stamp.source if output.stamp else ""
        if not task.is_ours and stamped.partition("-")[0] != key.partition("-")[0]:
            refuse_foreign(target)
    format = options.format_of(task.source)
    # Before `room_for`: all others wait for a huge photo, and this one may be refused.
    kept = check_rewritable(data, extras=options.hdr, format=format)
    with room_for(memory_megapixels(data)):
        enhanced = enhancer.enhance_file(
            data,
            strength=options.strength,
            quality=options.quality,
            format=format,
            extras=options.hdr,
            photos_only=options.photos_only,
            source=key,
        )
    storage.write_bytes(target, enhanced.data, modified=task.modified if options.keep_mtime else None)
    return replace(entry, megapixels=enhanced.megapixels, detail=f"kept: {', '.join(kept)}" if kept else "")


def _copy(task: FileTask, job: Job, entry: Entry) -> Entry:
    """Copy a file as it is. A target file that already has the same content counts as copied."""
    source, target = task.uri(job.source), task.uri(job.target)
    is_there = storage.exists(target)
    if not (is_there and storage.same_content(source, target)):
        if is_there and not task.is_ours:
            refuse_foreign(target)
        storage.copy(source, target, modified=task.modified if job.options.keep_mtime else None)
    return replace(entry, status=COPIED, output=task.source, settings=job.options.of_skipped)


def _refused(task: FileTask, job: Job, entry: Entry, error: ImageError) -> Entry:
    """The entry of a photo that cannot be enhanced. With `copy_others`, the photo is copied if its reason allows."""
    refused = replace(entry, status=FAILED, settings=job.options.of_skipped, reason=error.reason, detail=error.detail)
    if not error.reason.left_alone:
        return refused
    skipped = replace(refused, status=SKIPPED)
    if not job.options.copy_others:
        return skipped
    try:
        return replace(skipped, status=_copy(task, job, entry).status)
    except (ImageError, OSError) as problem:
        return replace(refused, reason=Reason.UNCOPIED, detail=str(problem))


def _entry(task: FileTask, job: Job) -> Entry:
    return Entry(
        source=task.source,
        fingerprint=task.fingerprint,
        model=job.model,
        settings=job.options.of_enhanced,
        output=task.output or task.source,
        status=ENHANCED,
        bytes=task.size,
    )


def _key(entry: Entry) -> str:
    """The `source` of an output's stamp: NAME-WHOLE.

    NAME is a digest of the source's name; it shows that the output belongs to this source. WHOLE is a digest of
    everything that decides the output.
    """
    parts = (entry.source, entry.fingerprint, entry.model, entry.settings)
    name, whole = (hashlib.blake2b("\0".join(of).encode(), digest_size=12).hexdigest() for of in (parts[:1], parts))
    return f"{name}-{whole}"
