"""Take HEIF files apart (ISO/IEC 23008-12): items, their properties, and how they refer to each other. AVIF is alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from naturaltone.pipeline.photo import xmp
from naturaltone.pipeline.photo.formats import SAMSUNG_VIDEO
from naturaltone.pipeline.photo.isobmff import Box, Reader, boxes, full_box, top_boxes

EXIF, MIME, GRID, CODED = b"Exif", b"mime", b"grid", b"hvc1"
XMP = b"application/rdf+xml"
TONE_MAP = b"tmap"  # ISO 21496-1: the photo and its gain map together
VIDEO = b"mpvd"  # the box of a motion video
OF_FILE, OF_META = 0, 1  # what the offset of an extent counts from
_HIDDEN = 1
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
_GAIN_MAP = b"aux:hdrgainmap"  # Apple's and Samsung's names end so
_MAX_ITEMS = 100_000  # more than any photo has; it bounds the cost of a made-up file
_MAX_DEPTH = 10  # likewise: a tile of a thumbnail of a gain map is at depth 3


@dataclass(frozen=True)
class Location:
    """Where the `iloc` box says that an item lies. An extent is: index, offset from `base`, length."""

    method: int = OF_FILE
    reference: int = 0
    base: int = 0
    extents: tuple[tuple[int, int, int], ...] = ()

    @property
    def is_in_file(self) -> bool:
        """Whether the bytes lie in this file, and not in another file or item."""
        return self.reference == 0 and self.method in (OF_FILE, OF_META)


@dataclass(frozen=True)
class Item:
    """An item: its four-letter kind (empty if the file does not say it), and where its bytes start and end in the file.

    content_type: of a `mime` item. is_plain: neither encrypted nor compressed. location: None if the file has no entry for it.
    properties: indices, in the item's order.
    """

    number: int
    kind: bytes = b""
    content_type: bytes = b""
    is_hidden: bool = False
    is_plain: bool = True
    location: Location | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    properties: tuple[int, ...] = ()


@dataclass(frozen=True)
class Heif:
    """A file taken apart.

    meta: the boxes in its `meta` box. properties: an item's index 1 means the first of them. references: kind, from, to.
    """

    data: bytes
    top: list[Box]
    meta: list[Box]
    primary: Item
    items: dict[int, Item]
    properties: list[Box]
    references: list[tuple[bytes, int, tuple[int, ...]]]

    def content(self, item: Item) -> bytes:
        """An item's bytes."""
        if not (item.location and item.location.is_in_file and item.is_plain):
            raise ValueError("an item lies in another file or item, or it is compressed or encrypted")
        return b"".join(self.data[start:end] for start, end in item.ranges)

    def all_of(self, item: Item, *kinds: bytes) -> Iterator[Box]:
        """An item's properties of these kinds, in the item's order."""
        for index in item.properties:
            if 0 < index <= len(self.properties) and self.properties[index - 1].kind in kinds:
                yield self.properties[index - 1]

    def body(self, box: Box) -> bytes:
        return self.data[box.content : box.end]

    def targets(self, kind: bytes, number: int) -> tuple[int, ...]:
        """The items to which an item refers."""
        return tuple(
            to for each, start, targets in self.references if (each, start) == (kind, number) for to in targets
        )

    def sources(self, kind: bytes, number: int) -> list[Item]:
        """The items that refer to an item."""
        starts = [start for each, start, targets in self.references if each == kind and number in targets]
        return [self.items[start] for start in starts if start in self.items]

    def describing(self, kind: bytes, content_type: bytes = b"") -> Item | None:
        """The EXIF or XMP item of the photo. Apple's gain maps have their own, so one of the whole file comes second."""
        found = [item for item in self.items.values() if (item.kind, item.content_type) == (kind, content_type)]
        of_photo = [item for item in found if self.primary.number in self.targets(b"cdsc", item.number)]
        of_file = [item for item in found if not self.targets(b"cdsc", item.number)]
        return next(iter(of_photo + of_file), None)

    def pictures(self, item: Item) -> list[Item]:
        """The coded pictures of which an item consists: its tiles, or the item itself."""
        if item.kind != GRID:
            return [item]
        numbers = self.targets(b"dimg", item.number)
        return [self.items[number] for number in numbers if number in self.items]

    def thumbnails(self) -> list[Item]:
        return self.sources(b"thmb", self.primary.number)


def opened(data: bytes) -> Heif:
    """Take a file apart; `ValueError` says what is wrong with its structure."""
    top = top_boxes(data)
    meta = only(top, b"meta")
    if not any(data[meta.start : meta.start + 4]):
        raise ValueError("the file's meta box does not say its length")
    parts = boxes(data, meta.content + 4, meta.end)
    items: dict[int, Item] = {}
    idat = next((part for part in parts if part.kind == b"idat"), None)
    for item in (*_locations(data, idat, parts), *_entries(data, parts)):
        known = items.get(item.number, Item(item.number))
        items[item.number] = replace(item, location=known.location, ranges=known.ranges) if item.kind else item
    properties, associations = _properties(data, parts)
    for number, indices in associations:
        known = items.get(number, Item(number))
        items[number] = replace(known, properties=known.properties + tuple(index for _, index in indices))
    _, _, reader = full_box(data, only(parts, b"pitm"))
    primary = reader.number(reader.end - reader.offset)
    if primary not in items:
        raise ValueError("the file does not have the item that it names as its photo")
    return Heif(data, top, parts, items[primary], items, properties, _references(data, parts))


def read(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the XMP packet, each None if the file has none; `ValueError` if the file is broken."""
    heif = opened(data)
    exif, packet = heif.describing(EXIF), heif.describing(MIME, XMP)
    content = heif.content(exif) if exif else None
    return content and content[exif_start(content) :], heif.content(packet) if packet else None


def exif_start(content: bytes) -> int:
    """The offset of the EXIF block in its item, which starts with the length of what comes before the block."""
    return 4 + int.from_bytes(content[:4], "big")


def extras(data: bytes) -> tuple[str, ...]:
    """Name what a HEIF holds besides the photo, as `container.extras` does."""
    try:
        heif = opened(data)
        packet = read(data)[1] or b""
    except ValueError:
        return ()
    names = set(_extra_items(heif).values())
    if any(box.kind == VIDEO for box in heif.top) or xmp.announces_video(packet):
        names.add("motion video")
    return tuple(sorted(names))


def items_to_drop(heif: Heif) -> set[int]:
    """The items of gain maps and other pictures, and all that belongs to nothing else: tiles, thumbnails, descriptions.

    `ValueError` if the photo itself is made of one of them.
    """
    users: dict[int, set[int]] = {}
    subjects: dict[int, set[int]] = {}
    for kind, number, targets in heif.references:
        if kind == b"dimg":
            for to in targets:
                users.setdefault(to, set()).add(number)
        elif kind in (b"auxl", b"cdsc", b"thmb"):
            subjects.setdefault(number, set()).update(targets)
    gone = set(_extra_items(heif))
    for _ in range(_MAX_DEPTH):
        more = {number for belongs in (users, subjects) for number, owners in belongs.items() if owners <= gone}
        more.discard(heif.primary.number)
        # What is made of a picture that goes can no longer be shown.
        more |= {number for kind, number, targets in heif.references if kind == b"dimg" and gone.intersection(targets)}
        if heif.primary.number in gone | more:
            raise ValueError("the photo is made of its gain map or of another picture, so they cannot be dropped")
        if more <= gone:
            return gone
        gone |= more
    raise ValueError("the file's pictures are made of each other in too many steps")


def gain_maps(heif: Heif) -> list[tuple[Item, bytes]]:
    """The pictures that Apple or Samsung call gain maps, each with its type."""
    typed = [
        (item, heif.body(box)[4:].split(b"\0")[0]) for item in heif.items.values() for box in heif.all_of(item, b"auxC")
    ]
    return [(item, name) for item, name in typed if name.endswith(_GAIN_MAP)]


def video_boxes(heif: Heif) -> list[Box]:
    """The boxes with the motion video, and Samsung's box that says where the video is."""
    return [
        box
        for box in heif.top
        if box.kind == VIDEO or (box.kind == b"sefd" and SAMSUNG_VIDEO in heif.data[box.content : box.end])
    ]


def _extra_items(heif: Heif) -> dict[int, str]:
    """The items that are gain maps or other pictures, with what `extras` calls them."""
    auxiliary = {number for kind, number, _ in heif.references if kind == b"auxl"}
    parts = {to for kind, _, targets in heif.references if kind == b"dimg" for to in targets}
    parts |= {number for kind, number, _ in heif.references if kind == b"thmb"} | {heif.primary.number}
    found = {}
    for number, item in heif.items.items():
        boxes = heif.all_of(item, b"auxC") if number in auxiliary else ()
        names = {heif.body(box)[4:].split(b"\0")[0] for box in boxes}
        is_picture = number not in parts | auxiliary and not item.is_hidden and any(heif.all_of(item, b"ispe"))
        if item.kind == TONE_MAP or any(name.endswith(_GAIN_MAP) for name in names):
            found[number] = "HDR gain map"
        elif is_picture or names - set(_ALPHA):
            found[number] = "other pictures"
    return found


def only(parts: list[Box], kind: bytes) -> Box:
    """The box of a kind; `ValueError` if there is none. Readers differ in which of several they take, so these are refused."""
    found = [part for part in parts if part.kind == kind]
    if len(found) != 1:
        number = "several" if found else "no"
        raise ValueError(f"the file has {number} {kind.decode('latin-1')} box{'es' if found else ''}")
    return found[0]


def associations(data: bytes, box: Box) -> list[tuple[int, list[tuple[bool, int]]]]:
    """The items in an `ipma` box with their properties: whether a reader must know it, and its index."""
    version, flags, reader = full_box(data, box)
    found = []
    for _ in range(_checked(reader.number(4))):
        number, rows = reader.number(2 if version == 0 else 4), []
        for _ in range(reader.number(1)):
            row, bits = (reader.number(2), 15) if flags & 1 else (reader.number(1), 7)
            rows.append((bool(row >> bits), row & (1 << bits) - 1))
        found.append((number, rows))
    return found


def _checked(count: int) -> int:
    if count > _MAX_ITEMS:
        raise ValueError(f"the file has more than {_MAX_ITEMS} items")
    return count


def _locations(data: bytes, idat: Box | None, parts: list[Box]) -> Iterator[Item]:
    version, _, reader = full_box(data, only(parts, b"iloc"))
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(_checked(reader.number(4 if version == 2 else 2))):
        number = reader.number(4 if version == 2 else 2)
        method = reader.number(2) & 15 if version else OF_FILE
        reference, base = reader.number(2), reader.number(base_size)
        extents = tuple(
            (reader.number(index_size), reader.number(offset_size), reader.number(length_size))
            for _ in range(reader.number(2))
        )
        location = Location(method, reference, base, extents)
        yield Item(number, location=location, ranges=_ranges(data, idat, location))


def _ranges(data: bytes, idat: Box | None, location: Location) -> tuple[tuple[int, int], ...]:
    if not location.is_in_file:
        return ()
    if location.method == OF_META and idat is None:
        raise ValueError("an item lies in the file's idat box, but the file has none")
    start, end = (idat.content, idat.end) if location.method == OF_META and idat else (0, len(data))
    ranges = []
    for _, offset, length in location.extents:
        first = start + location.base + offset
        if first + length > end:
            raise ValueError("an item lies outside the file")
        ranges.append((first, first + length))
    return tuple(ranges)


def _entries(data: bytes, parts: list[Box]) -> Iterator[Item]:
    box = only(parts, b"iinf")
    version, _, reader = full_box(data, box)
    reader.number(2 if version == 0 else 4)
    for entry in boxes(data, reader.offset, box.end):
        version, flags, reader = full_box(data, entry)
        if entry.kind != b"infe" or version not in (2, 3):
            continue
        number, protection, kind = reader.number(2 if version == 2 else 4), reader.number(2), reader.raw(4)
        reader.text()
        content_type = reader.text() if kind == MIME else b""
        encoding = reader.text() if kind == MIME else b""
        yield Item(number, kind, content_type, bool(flags & _HIDDEN), protection == 0 and not encoding)


def _properties(data: bytes, parts: list[Box]) -> tuple[list[Box], list[tuple[int, list[tuple[bool, int]]]]]:
    inside = [box for part in parts if part.kind == b"iprp" for box in boxes(data, part.content, part.end)]
    box = only(inside, b"ipco")
    rows = [row for each in inside if each.kind == b"ipma" for row in associations(data, each)]
    return boxes(data, box.content, box.end), rows


def _references(data: bytes, parts: list[Box]) -> list[tuple[bytes, int, tuple[int, ...]]]:
    found = []
    for part in parts:
        if part.kind != b"iref":
            continue
        version, _, reader = full_box(data, part)
        size = 2 if version == 0 else 4
        for box in boxes(data, reader.offset, part.end):
            inner = Reader(data, box.content, box.end)
            start = inner.number(size)
            found.append((box.kind, start, tuple(inner.number(size) for _ in range(inner.number(2)))))
    return found
