"""Put newly coded pictures into a HEIF file's own structure, where every other item keeps its bytes and its number."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from naturaltone.pipeline.photo import heif, tiff
from naturaltone.pipeline.photo.formats import SAMSUNG_VIDEO
from naturaltone.pipeline.photo.heif import EXIF, MIME, OF_META, TONE_MAP, XMP, Heif, Item, Location
from naturaltone.pipeline.photo.hevc import Picture
from naturaltone.pipeline.photo.isobmff import (
    Box,
    Reader,
    Splice,
    Spliced,
    appended,
    boxes,
    full_box,
    made,
    top_boxes,
)
from naturaltone.pipeline.photo.xmp import with_length

_OFFSET = 4  # bytes of an offset and of a length
_WIDE_INDEX = 1  # flag of an ipma box
_SHORT_INDICES = 127
_SHORT_NUMBERS = 65_535
_MOST_DIGITS = 3  # times that a length in the XMP packet may become longer or shorter
_PLACE_OF_VIDEO = re.compile(SAMSUNG_VIDEO + rb"mpv2(.{4})", re.DOTALL)
_HOLDERS = (b"iinf", b"iprp", b"iref", b"idat", b"grpl")


def replace_pixels(
    original: bytes,
    encoded: dict[int, Picture],
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
    drop_extras: bool,
) -> bytes:
    """Return `original` with the pictures of `encoded`, which names them by the numbers of their items.

    The old pictures are cut out of the file, and the new ones are appended to its media data. The file's `iloc` box gets the
    new offsets. All other boxes and items keep their bytes. ISO/IEC 14496-12, 8.11. drop_extras: leave out gain maps, other
    pictures, the motion video, and bytes after the file's boxes.
    """
    file = heif.opened(original)
    gone = heif.items_to_drop(file) if drop_extras else set()
    missing = [number for number in encoded if number not in file.items]
    if missing or not encoded:
        raise ValueError("the new pixels do not belong to this file")
    contents = {number: picture.data for number, picture in encoded.items()}
    packet = file.describing(MIME, XMP)
    old = None if packet is None else file.content(packet)
    new = edit_xmp(old)
    added = None
    if new is not None and packet is None:
        added = _free_number(file)
        contents[added] = new
    elif new is not None and packet is not None and new != old:
        contents[packet.number] = new
    configs = {number: picture.config for number, picture in encoded.items() if picture.config}
    splices = [
        *_cuts(file, {*contents, *gone}),
        *_new_exif(file, thumbnail),
        *_new_properties(file, configs, gone),
        *_new_entries(file, added, gone),
        *_new_references(file, added, gone),
        *_new_groups(file, gone),
    ]
    if drop_extras:
        splices += [Splice(box.start, box.end, b"") for box in heif.video_boxes(file)]
        splices += [*_new_brands(file), Splice(file.top[-1].end, len(original), b"")]
    written = _written(file, splices, contents, gone)
    video = next((box for box in file.top if box.kind == heif.VIDEO), None)
    if packet is None or new is None or video is None or drop_extras:
        return written
    # The packet may say where the photo ends and its video begins. A number of other length moves the video once more.
    length = video.start
    for _ in range(_MOST_DIGITS):
        start = next(box.start for box in top_boxes(written) if box.kind == heif.VIDEO)
        changed = with_length(new, length, start)
        if changed == new:
            break
        new = contents[packet.number] = changed
        length, written = start, _written(file, splices, contents, gone)
    return written


def _written(file: Heif, splices: list[Splice], contents: dict[int, bytes], gone: set[int]) -> bytes:
    """The file after all splices, with the new contents and a new `iloc` box without the items that are gone."""
    media = _media(file, contents)
    body = b"".join(contents.values())
    meta = heif.only(file.top, b"meta")
    if media is None:
        data, skipped = Splice(meta.start, meta.start, made(b"mdat", body)), 8
    else:
        data, skipped = appended(media, body), 0
    old = heif.only(file.meta, b"iloc")
    holders = [box for box in file.top if box.kind in (b"ftyp", b"mdat", b"meta")]
    holders += [box for box in file.meta if box.kind in _HOLDERS]
    inside = [box for part in file.meta if part.kind == b"iprp" for box in boxes(file.data, part.content, part.end)]
    holders += [box for box in inside if box.kind == b"ipco"]

    def spliced(locations: bytes) -> Spliced:
        return Spliced(file.data, [*splices, data, Splice(old.start, old.end, locations)], holders)

    # The box has the same length for all offsets, so a first draft shows where everything will lie.
    nowhere = Location(extents=((0, 0, 0),))
    draft = spliced(_locations(file, dict.fromkeys(contents, nowhere), gone, None))
    starts, offset = {}, draft.start_of(data) + skipped
    for number, content in contents.items():
        starts[number] = Location(extents=((0, offset, len(content)),))
        offset += len(content)
    splices = [*splices, *_new_video_offsets(file, splices, draft)]
    return spliced(_locations(file, starts, gone, draft)).written()


def _new_video_offsets(file: Heif, splices: list[Splice], after: Spliced) -> Iterator[Splice]:
    """Let Samsung's records of the motion video say where it lies then."""
    cut = {splice.start for splice in splices}
    for box in file.top:
        if box.kind == heif.VIDEO and box.start not in cut:
            for match in _PLACE_OF_VIDEO.finditer(file.data, box.content):
                if int.from_bytes(match[1], "big") == box.content:
                    yield Splice(match.start(1), match.end(1), _packed(after.moved(box.content), _OFFSET))


def _locations(file: Heif, new: dict[int, Location], gone: set[int], after: Spliced | None) -> bytes:
    """The `iloc` box with the new locations. `after` tells where everything else lies then; None for a draft."""
    old = heif.only(file.meta, b"iloc")
    version, _, reader = full_box(file.data, old)
    sizes = reader.number(2)
    widths = [max(_OFFSET, sizes >> 12), max(_OFFSET, sizes >> 8 & 15), sizes >> 4 & 15, sizes & 15 if version else 0]
    located = {number: item.location for number, item in file.items.items() if item.location and number not in gone}
    located |= {number: location for number, location in new.items() if number not in located}
    number_size = 4 if version == 2 else 2
    parts = [file.data[old.content : old.content + 4]]
    parts += [bytes([widths[0] << 4 | widths[1], widths[2] << 4 | widths[3]]), _packed(len(located), number_size)]
    for number, location in located.items():
        location = new.get(number) or (_moved(file, file.items[number], after) if after else location)
        parts += [_packed(number, number_size), _packed(location.method, 2) if version else b""]
        parts += [_packed(location.reference, 2), _packed(location.base, widths[2])]
        parts.append(_packed(len(location.extents), 2))
        for index, offset, length in location.extents:
            parts += [_packed(index, widths[3]), _packed(offset, widths[0]), _packed(length, widths[1])]
    return made(b"iloc", b"".join(parts))


def _moved(file: Heif, item: Item, after: Spliced) -> Location:
    location = item.location or Location()
    if not location.is_in_file:
        return location
    origin = after.moved(heif.only(file.meta, b"idat").content) if location.method == OF_META else 0
    extents = tuple(
        (index, after.moved_range(start, end) - origin, end - start)
        for (index, _, _), (start, end) in zip(location.extents, item.ranges, strict=True)
    )
    return Location(location.method, 0, 0, extents)


def _packed(number: int, size: int) -> bytes:
    if number >= 1 << 8 * size and size:
        raise ValueError("the file's box of offsets has no room for the new pixels")
    return number.to_bytes(size, "big") if size else b""


def _media(file: Heif, contents: dict[int, bytes]) -> Box | None:
    """The media data with the first of the old pictures; else the first media data; None if the file has none."""
    media = [box for box in file.top if box.kind == b"mdat"]
    starts = [start for number in contents if number in file.items for start, _ in file.items[number].ranges]
    holding = [box for box in media if any(box.content <= start < box.end for start in starts)]
    return next(iter(holding + media), None)


def _cuts(file: Heif, old: set[int]) -> Iterator[Splice]:
    """Cut the contents of old items out, except for bytes that another item uses too."""
    for item in file.items.values():
        is_inside = item.location is not None and not item.location.is_in_file and item.number not in old
        if is_inside and any(number in old for number in file.targets(b"iloc", item.number)):
            raise ValueError("an item is a part of the old pixels")
    replaced = sorted(span for number in old if number in file.items for span in file.items[number].ranges)
    kept = sorted(span for number, item in file.items.items() if number not in old for span in item.ranges)
    holders = [box for box in (*file.top, *file.meta) if box.kind in (b"mdat", b"idat")]
    cut = 0
    for start, end in replaced:
        if not any(box.content <= start and end <= box.end for box in holders):
            raise ValueError("the old pixels lie outside the file's media data")
        start = max(start, cut)
        for kept_start, kept_end in kept:
            if kept_start < end and start < kept_end:
                if start < kept_start:
                    yield Splice(start, kept_start, b"")
                start = max(start, kept_end)
        if start < end:
            yield Splice(start, end, b"")
        cut = max(cut, end)


def _new_exif(file: Heif, thumbnail: Callable[[int], bytes] | None) -> Iterator[Splice]:
    """Let the thumbnail in the EXIF block, if there is one, show the new pixels; nothing moves."""
    item = file.describing(EXIF)
    if thumbnail is None or item is None or len(item.ranges) != 1:
        return
    content = file.content(item)
    start = heif.exif_start(content)
    block = tiff.with_thumbnail(content[start:], thumbnail)
    if block != content[start:]:
        yield Splice(item.ranges[0][0] + start, item.ranges[0][1], block)


def _new_properties(file: Heif, configs: dict[int, bytes], gone: set[int]) -> Iterator[Splice]:
    """Give the new pictures their `hvcC` boxes: in the place of the old box if no other item uses it, else after all others.

    A property that only items used which are gone becomes an empty box, as items name properties by their indices.
    """
    more: list[bytes] = []
    changes: dict[tuple[int, int], int] = {}
    for index, box in enumerate(file.properties, 1):
        all_users = [item.number for item in file.items.values() if index in item.properties]
        users = [number for number in all_users if number not in gone]
        wanted = {configs[number] for number in users if number in configs}
        if all_users and not users:
            yield Splice(box.start, box.end, made(b"free", b""))
        if box.kind != b"hvcC" or not wanted:
            continue
        if len(wanted) == 1 and all(number in configs for number in users):
            config = wanted.pop()
            if config != file.body(box):
                yield Splice(box.start, box.end, made(b"hvcC", config))
            continue
        for number in users:
            if number in configs:
                if configs[number] not in more:
                    more.append(configs[number])
                changes[number, index] = len(file.properties) + 1 + more.index(configs[number])
    inside = [box for part in file.meta if part.kind == b"iprp" for box in boxes(file.data, part.content, part.end)]
    if more:
        yield appended(heif.only(inside, b"ipco"), b"".join(made(b"hvcC", config) for config in more))
    for box in inside:
        if (changes or gone) and box.kind == b"ipma":
            yield Splice(box.start, box.end, _associations(file, box, changes, gone))


def _associations(file: Heif, box: Box, changes: dict[tuple[int, int], int], gone: set[int]) -> bytes:
    """An `ipma` box in which some items have another property, (item, old index) to new index, and some are gone."""
    version, flags, _ = full_box(file.data, box)
    rows = [
        (number, [(is_essential, changes.get((number, index), index)) for is_essential, index in properties])
        for number, properties in heif.associations(file.data, box)
        if number not in gone
    ]
    if any(index > _SHORT_INDICES for _, properties in rows for _, index in properties):
        flags |= _WIDE_INDEX
    size = 2 if flags & _WIDE_INDEX else 1
    parts = [bytes([version]), _packed(flags, 3), _packed(len(rows), 4)]
    for number, properties in rows:
        parts += [_packed(number, 2 if version == 0 else 4), _packed(len(properties), 1)]
        parts += [_packed(is_essential << 8 * size - 1 | index, size) for is_essential, index in properties]
    return made(b"ipma", b"".join(parts))


def _free_number(file: Heif) -> int:
    """A number that no item and no group of items has."""
    groups = [
        int.from_bytes(file.data[group.content + 4 : group.content + 8], "big")
        for part in file.meta
        if part.kind == b"grpl"
        for group in boxes(file.data, part.content, part.end)
    ]
    used = {*file.items, *groups}
    number = max(used) + 1
    if number <= _SHORT_NUMBERS:
        return number
    return next((number for number in range(1, _SHORT_NUMBERS + 1) if number not in used), number)


def _new_entries(file: Heif, added: int | None, gone: set[int]) -> Iterator[Splice]:
    """Name a new XMP item in the `iinf` box, and no longer name the items that are gone."""
    box = heif.only(file.meta, b"iinf")
    version, _, reader = full_box(file.data, box)
    size = 2 if version == 0 else 4
    old = count = reader.number(size)
    start = reader.offset
    for entry in boxes(file.data, start, box.end):
        version, _, reader = full_box(file.data, entry)
        if reader.number(4 if version == 3 else 2) in gone:
            count -= 1
            yield Splice(entry.start, entry.end, b"")
    if added is not None:
        count += 1
        head = struct.pack(">B3xHH", 2, added, 0) if added <= _SHORT_NUMBERS else struct.pack(">B3xIH", 3, added, 0)
        yield appended(box, made(b"infe", head + MIME + b"\0" + XMP + b"\0"))
    if count != old:
        yield Splice(start - size, start, _packed(count, size))


def _new_references(file: Heif, added: int | None, gone: set[int]) -> Iterator[Splice]:
    """Say in the `iref` box that a new item describes the photo, and no longer refer to the items that are gone.

    A file without this box gets one, as its last: FFmpeg does not open a file that has it first.
    """
    box = next((part for part in file.meta if part.kind == b"iref"), None)
    version = 1 if box is None else file.data[box.content]
    size = 2 if version == 0 else 4
    for row in boxes(file.data, box.content + 4, box.end) if box and gone else ():
        reader = Reader(file.data, row.content, row.end)
        number = reader.number(size)
        targets = [reader.number(size) for _ in range(reader.number(2))]
        kept = [target for target in targets if target not in gone]
        if number in gone or len(kept) < len(targets):
            yield Splice(row.start, row.end, b"" if number in gone or not kept else _row(row.kind, number, kept, size))
    if added is not None:
        new = _row(b"cdsc", added, [file.primary.number], size)
        if box is None:
            yield appended(heif.only(file.top, b"meta"), made(b"iref", bytes([version, 0, 0, 0]) + new))
        else:
            yield appended(box, new)


def _row(kind: bytes, number: int, targets: list[int], size: int) -> bytes:
    parts = [_packed(number, size), _packed(len(targets), 2), *(_packed(target, size) for target in targets)]
    return made(kind, b"".join(parts))


def _new_groups(file: Heif, gone: set[int]) -> Iterator[Splice]:
    """Leave out the groups of items that name one which is gone: of alternatives, of a burst, of a stereo pair."""
    for part in file.meta if gone else ():
        for group in boxes(file.data, part.content, part.end) if part.kind == b"grpl" else ():
            _, _, reader = full_box(file.data, group)
            reader.number(4)
            if any(reader.number(4) in gone for _ in range(reader.number(4))):
                yield Splice(group.start, group.end, b"")


def _new_brands(file: Heif) -> Iterator[Splice]:
    """Leave out the compatible brand by which a file says that it has a gain map of ISO 21496-1."""
    box = heif.only(file.top, b"ftyp")
    for offset in range(box.content + 8, box.end, 4):
        if file.data[offset : offset + 4] == TONE_MAP:
            yield Splice(offset, offset + 4, b"")
