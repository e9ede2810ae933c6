"""Change XMP packets by cutting and inserting text, so that everything other programs wrote stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NAMESPACE = "https://naturaltone.dev/ns/1.0/"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_GAIN_MAPS = ("http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/")
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_FRESH = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF xmlns:rdf="{_RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
).encode()

# How a packet in UTF-16 or UTF-32 starts. UTF-8 is edited as Latin-1, since every ASCII character is one byte in both.
_WIDE = (
    (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"), (b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
)  # fmt: skip
_TAG = re.compile(r"""<(/?)([^\s/<>"'=]+)((?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>""")
_ATTRIBUTE = re.compile(r"""(?<!\s)\s++([^\s/<>"'=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_REFERENCE = re.compile(r"&(?:#x([0-9a-fA-F]{1,6})|#([0-9]{1,7})|(amp|lt|gt|quot|apos));")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ONES = re.compile(
    r""":(?:MotionPhoto|MicroVideo)\s*(?:=\s*["']\s*|>\s*)1\s*["'<]|\bSemantic\s*[=>]\s*["']?MotionPhoto\b"""
)
_GAIN_MAP_ITEM = re.compile(r"""\bSemantic\s*[=>]\s*["']?GainMap\b|:aux:hdrgainmap\b""")
_OURS = re.compile(
    rf'<rdf:Description(?: xmlns:rdf="[^"]*")? rdf:about="[^"]*" xmlns:naturaltone="{re.escape(NAMESPACE)}"'
    r'(?: naturaltone:\w+="[^"]*")*/>\n?'
)
_MAX_DEPTH, _MAX_NAMESPACES = 100, 1000  # they bound the cost of a made-up packet
_BLOCKS = (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">"))


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What was done to a photo: the model, its strength, and the source file (the digest by which the archive knows it)."""

    model: str
    strength: float
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class _Tag:
    """A start or end tag, and its position in the text. Names are pairs: (namespace, local name)."""

    start: int
    end: int
    closes: bool
    is_empty: bool
    prefix: str
    name: tuple[str, str]
    attributes: list[tuple[int, int, tuple[str, str], str]]


def stamped(xmp: bytes | None, stamp: Stamp) -> bytes:
    """Put a stamp into a packet, instead of any earlier stamp; without a packet, make one.

    `ValueError` if the packet has no rdf:RDF element or cannot be parsed.
    """
    text, codec = _decode(_FRESH if xmp is None else xmp)
    text = _without(_OURS.sub("", text), lambda name: name[0] == NAMESPACE)
    values = {"Model": stamp.model, "Strength": repr(float(stamp.strength)), "Source": stamp.source}
    attributes = "".join(f' naturaltone:{name}="{_escaped(value)}"' for name, value in values.items())
    return _encode(_with_description(text, f' xmlns:naturaltone="{NAMESPACE}"{attributes}/>\n'), codec)


def with_gain_map(xmp: bytes | None, length: int) -> bytes:
    """Say in the packet of a photo that a gain map follows it, a JPEG of `length` bytes, as Ultra HDR 1.0 does."""
    text, codec = _decode(_FRESH if xmp is None else xmp)
    items = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item {item} Item:Mime="image/jpeg"/></rdf:li>\n'
        for item in ('Item:Semantic="Primary"', f'Item:Semantic="GainMap" Item:Length="{length}"')
    )
    rest = (
        f' xmlns:Container="{_CONTAINER}" xmlns:Item="{_CONTAINER}item/" xmlns:hdrgm="{_GAIN_MAPS[0]}" hdrgm:Version="1.0">\n'
        f"<Container:Directory>\n<rdf:Seq>\n{items}</rdf:Seq>\n</Container:Directory>\n</rdf:Description>\n"
    )
    return _encode(_with_description(text, rest), codec)


def gain_map_packet(meaning: dict[str, float]) -> bytes:
    """The packet of a gain map. meaning: the numbers of Ultra HDR 1.0 by their names."""
    text, codec = _decode(_FRESH)
    numbers = "".join(f' hdrgm:{name}="{value:.6f}"' for name, value in meaning.items())
    rest = f' xmlns:hdrgm="{_GAIN_MAPS[0]}" hdrgm:Version="1.0"{numbers} hdrgm:BaseRenditionIsHDR="False"/>\n'
    return _encode(_with_description(text, rest), codec)


def read_stamp(xmp: bytes | None) -> Stamp | None:
    """Read the stamp in a packet, also after another program has rewritten the packet; None if no stamp can be read."""
    values: dict[str, str] = {}
    try:
        text, codec = _decode(xmp or b"")
        for tag in _tags(text):
            for _, _, (namespace, local), value in tag.attributes:
                if namespace == NAMESPACE:
                    values[local] = value
            if tag.name[0] == NAMESPACE and not tag.closes and not tag.is_empty:
                values[tag.name[1]] = text[tag.end : text.find("<", tag.end)]
        narrow = {local: value.encode(codec, "surrogatepass") for local, value in values.items()}
        found = {
            local: _REFERENCE.sub(_character, value.decode("utf-8" if codec == "latin-1" else codec, "replace"))
            for local, value in narrow.items()
        }
        return Stamp(model=found["Model"], strength=float(found["Strength"]), source=found.get("Source", ""))
    except (ValueError, KeyError):
        return None


def without_extras(xmp: bytes) -> bytes:
    """Cut out what a packet says about gain maps and motion videos; `ValueError` if the packet is not XML."""
    text, codec = _decode(xmp)
    return _encode(_without(text, _describes_extra), codec)


def announces_gain_map(xmp: bytes) -> bool:
    """Whether a packet says that the photo has a gain map, or that its picture is one."""
    text = _leniently(xmp)
    return any(namespace in text for namespace in _GAIN_MAPS) or _GAIN_MAP_ITEM.search(text) is not None


def announces_video(xmp: bytes) -> bool:
    """Whether a packet says that a motion video follows the photo."""
    return _ONES.search(_leniently(xmp)) is not None


def with_length(xmp: bytes, old: int, new: int) -> bytes:
    """Change an item's length in a directory of Google's container; returns the same packet if it names no such length."""
    text, codec = _decode(xmp)
    changed = re.sub(rf"""(:Length\s*(?:=\s*["']|>)\s*){old}(?=\s*["'<])""", rf"\g<1>{new}", text)
    return xmp if changed == text else _encode(changed, codec)


def lists_items(xmp: bytes) -> bool:
    """Whether a packet has a directory of Google's container, which lists by their lengths what follows the photo."""
    return _CONTAINER in _leniently(xmp)


def _describes_extra(name: tuple[str, str]) -> bool:
    namespace, local = name
    if namespace == _CAMERA:
        return local.startswith(("MotionPhoto", "MicroVideo"))
    return namespace.startswith((*_GAIN_MAPS, _CONTAINER))


def _with_description(text: str, rest: str) -> str:
    """Add an rdf:Description to a packet; rest: what follows its attribute rdf:about."""
    about = ""
    for tag in _tags(text):
        for _, _, name, value in tag.attributes:
            if name == (_RDF, "about"):  # a packet describes one thing, and readers refuse a second name for it
                about = about or value.replace('"', "&quot;")
        if tag.name == (_RDF, "RDF") and (tag.closes or tag.is_empty):
            rdf = "" if tag.prefix == "rdf" else f' xmlns:rdf="{_RDF}"'
            ours = f'<rdf:Description{rdf} rdf:about="{about}"{rest}'
            if tag.closes:
                return text[: tag.start] + ours + text[tag.start :]
            opened = text[tag.start : tag.end - 1].rstrip("/ \t\r\n")
            closing = f"</{tag.prefix}:RDF>" if tag.prefix else "</RDF>"
            return f"{text[: tag.start]}{opened}>\n{ours}{closing}{text[tag.end :]}"
    raise ValueError("the XMP packet cannot take naturaltone's note: it has no rdf:RDF element")


def _escaped(value: str) -> str:
    # Plain ASCII is the same in every encoding that a packet may have; XML has no control characters.
    kept = (c for c in value if (c >= " " or c in "\t\n\r") and not "\ud800" <= c <= "\udfff")
    return "".join(c if " " <= c <= "~" and c not in "&<>\"'" else f"&#{ord(c)};" for c in kept)


def _character(match: re.Match[str]) -> str:
    hexadecimal, decimal, name = match.groups()
    if name:
        return _ENTITIES[name]
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return chr(number) if number < 0x110000 else "\ufffd"


def _without(text: str, is_dropped: Callable[[tuple[str, str]], bool]) -> str:
    """Cut out the elements and attributes with a dropped name, and the declarations of dropped namespaces."""
    cuts: list[tuple[int, int]] = []
    depth, begin = 0, 0  # inside the element that is being dropped
    for tag in _tags(text):
        if depth:
            depth += 0 if tag.is_empty else -1 if tag.closes else 1
            if depth == 0:
                cuts.append((begin, tag.end))
        elif is_dropped(tag.name):
            begin = tag.start
            while text[begin - 1 : begin].isspace():
                begin -= 1
            if tag.is_empty:
                cuts.append((begin, tag.end))
            depth = 0 if tag.is_empty else 1
        else:
            for start, end, name, value in tag.attributes:
                if is_dropped((value, "")) if name[0] == "xmlns" else is_dropped(name):
                    cuts.append((start, end))
    if depth:
        raise ValueError("the XMP packet cannot be changed: an element is not closed")
    kept, position = [], 0
    for start, end in cuts:
        kept.append(text[position:start])
        position = end
    return "".join([*kept, text[position:]])


def _tags(text: str) -> Iterator[_Tag]:
    scopes: list[dict[str, str]] = [{}]
    position = 0
    while (position := text.find("<", position)) >= 0:
        closer = next((closer for opener, closer in _BLOCKS if text.startswith(opener, position)), None)
        if closer:
            end = text.find(closer, position)
            if end < 0:
                raise ValueError("the XMP packet is cut short")
            position = end + len(closer)
            continue
        match = _TAG.match(text, position)
        if match is None:
            raise ValueError("the XMP packet is not XML")
        position = match.end()
        closes, is_empty = match[1] == "/", match[3].endswith("/")
        raw = [] if closes else list(_ATTRIBUTE.finditer(text, match.start(3), match.end(3)))
        bound = {
            attribute[1].removeprefix("xmlns").removeprefix(":"): attribute[2] or attribute[3] or ""
            for attribute in raw
            if attribute[1] == "xmlns" or attribute[1].startswith("xmlns:")
        }
        scope = scopes[-1] | bound if bound else scopes[-1]
        if len(scopes) > _MAX_DEPTH or len(scope) > _MAX_NAMESPACES:
            raise ValueError("the XMP packet is nested too deeply, or has too many namespaces")
        prefix, _, local = match[2].rpartition(":")
        attributes = []
        for attribute in raw:
            before, _, rest = attribute[1].rpartition(":")
            namespace = "xmlns" if before == "xmlns" else scope.get(before, "") if before else ""
            value = attribute[2] if attribute[2] is not None else attribute[3]
            attributes.append((attribute.start(), attribute.end(), (namespace, rest), value))
        yield _Tag(
            start=match.start(),
            end=position,
            closes=closes,
            is_empty=is_empty,
            prefix=prefix,
            name=(scope.get(prefix, ""), local),
            attributes=attributes,
        )
        if closes and len(scopes) > 1:
            scopes.pop()
        elif not closes and not is_empty:
            scopes.append(scope)


def _decode(xmp: bytes) -> tuple[str, str]:
    codec = next((codec for start, codec in _WIDE if xmp.startswith(start)), "latin-1")
    try:
        return xmp.decode(codec, "surrogatepass"), codec
    except UnicodeDecodeError:
        raise ValueError(f"the XMP packet starts as {codec}, but is not valid {codec}") from None


def _encode(text: str, codec: str) -> bytes:
    return text.encode(codec, "surrogatepass")


def _leniently(xmp: bytes) -> str:
    codec = next((codec for start, codec in _WIDE if xmp.startswith(start)), "latin-1")
    return xmp.decode(codec, "ignore")
