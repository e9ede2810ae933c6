"""A HEIF with new pixels: every other item and box stays byte for byte, and is found where the file says."""

from __future__ import annotations

import functools
import io
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.pipeline.photo import container, heif, heif_rewrite
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable, encode
from naturaltone.pipeline.photo.heif import MIME, XMP
from naturaltone.pipeline.photo.hevc import Picture
from naturaltone.pipeline.photo.isobmff import boxes, full_box, made
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp, stamped, without_extras
from tests.mutations import mutations, samples
from tests.pipeline.photo.files import FTYP, MOTION_XMP, PLAIN_XMP, STAMP, exif
from tests.pipeline.photo.heif_files import (
    ALPHA,
    APPLE_GAIN_MAP,
    DEPTH,
    Part,
    Shape,
    auxiliary,
    built,
    coded,
    error,
    exif_item,
    full,
    grid_file,
    grid_of,
    heic,
    items_of,
    nclx,
    needs_heif,
    phone_parts,
    picture,
    scene,
    shown,
    size_of,
    top,
)

pytestmark = needs_heif
OLD = b"\xff\xd8\xff" + b"old" * 3000
SHAPES = st.builds(
    Shape,
    iloc=st.sampled_from([1, 2]),
    infe=st.sampled_from([2, 3]),
    iref=st.sampled_from([0, 1]),
    ipma=st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1])),
    iinf=st.sampled_from([0, 1]),
    pitm=st.sampled_from([0, 1]),
    has_large_mdat=st.booleans(),
    has_open_mdat=st.just(False),
    meta_is_last=st.booleans(),
    has_base=st.booleans(),
    offset_size=st.sampled_from([4, 8]),
    before=st.lists(st.just(made(b"free", b"room")), max_size=1).map(tuple),
    after=st.lists(st.sampled_from([made(b"mpvd", FTYP), made(b"uuid", bytes(20)), made(b"free", b"")])).map(tuple),
    in_meta=st.lists(st.sampled_from([made(b"grpl", b""), made(b"free", b"inner")]), max_size=2).map(tuple),
)


@functools.cache
def new_picture(width: int = 64, height: int = 64) -> Picture:
    return coded(width, height, 77)


def rewritten(data: bytes, encoded: dict[int, Picture], stamp: Stamp | None = None, *, drop: bool = False) -> bytes:
    return container.replace_pixels(data, encoded, stamp=stamp, drop_extras=drop)


def config_of(data: bytes, number: int) -> bytes:
    file = heif.opened(data)
    (box,) = file.all_of(file.items[number], b"hvcC")
    return file.body(box)


def kept(data: bytes, without: set[int]) -> dict[int, tuple[object, ...]]:
    """What stays of each item: kind, bytes, properties and references."""
    file = heif.opened(data)
    return {
        number: (
            *(kind, content, file.items[number].is_hidden, file.items[number].location.method),  # type: ignore[union-attr]
            [
                (box.kind, file.body(box))
                for box in map(lambda i: file.properties[i - 1], file.items[number].properties)
            ],
            sorted((kind, targets) for kind, start, targets in file.references if start == number),
        )
        for number, (kind, content) in items_of(data).items()
        if number not in without
    }


@given(SHAPES, st.booleans(), st.booleans(), st.integers(1, 3))
@settings(max_examples=150)
def test_every_other_item_keeps_its_bytes_its_properties_and_its_references(
    shape: Shape, has_packet: bool, in_meta: bool, pieces: int
) -> None:
    parts = phone_parts()
    parts[4] = replace(parts[4], in_meta=in_meta)
    parts[3] = replace(parts[3], pieces=pieces)
    parts[1] = replace(parts[1], pieces=pieces)
    if not has_packet:
        del parts[5]
    data = built(parts, 1, shape)
    encoded = {1: new_picture(96, 80), 2: new_picture()}
    result = rewritten(data, encoded, STAMP)
    changed = {1, 2, 5 if has_packet else 12}
    assert kept(result, changed) == kept(data, changed)
    for number, new in encoded.items():
        assert items_of(result)[number] == (b"hvc1", new.data) and config_of(result, number) == new.config
    packet = container.read(result).xmp
    assert packet == stamped(PLAIN_XMP if has_packet else None, STAMP) and read_stamp(packet) == STAMP
    others = [box for box in top(data) if box[0] not in (b"meta", b"mdat")]
    assert [box for box in top(result) if box[0] not in (b"meta", b"mdat")] == others
    assert [kind for kind, _ in top(result)] == [kind for kind, _ in top(data)]
    assert coded(96, 80).data not in result and coded(64, 64, 2).data not in result
    assert np.array_equal(
        shown(result), shown(built({**parts, 1: replace(parts[1], data=new_picture(96, 80).data)}, 1))
    )


@pytest.mark.parametrize(
    "shape",
    [
        Shape(iloc=0, has_base=True),
        Shape(has_open_mdat=True),
        Shape(has_large_mdat=True, meta_is_last=True),
        Shape(offset_size=8, iloc=2, infe=3, iref=1, ipma=(1, 1), iinf=1, pitm=1),
    ],
)
def test_libheif_and_we_find_the_same_in_the_new_file(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_heif

    for option in ("AUX_IMAGES", "DEPTH_IMAGES", "THUMBNAILS"):
        monkeypatch.setattr(pillow_heif.options, option, True)
    data = built(phone_parts(), 1, shape)
    result = rewritten(data, {1: new_picture(96, 80), 2: new_picture()}, STAMP)
    file = pillow_heif.open_heif(io.BytesIO(result))
    info = file[file.primary_index].info
    assert info["exif"] == exif() and read_stamp(info["xmp"]) == STAMP
    assert [each["data"] for each in info["metadata"]] == [b"vendor's own"]
    assert list(info["aux"]) == ["urn:com:apple:photo:2020:aux:hdrgainmap"] and len(info["thumbnails"]) == 1
    assert len(info["depth_images"]) == 1
    old = pillow_heif.open_heif(io.BytesIO(data))
    for number in (3,):
        gain_maps = [np.asarray(each[each.primary_index].get_aux_image(number)) for each in (file, old)]
        assert np.array_equal(*gain_maps)


def test_a_new_box_of_references_comes_last() -> None:
    """FFmpeg 9 does not open a file that has it before the boxes of items."""
    result = rewritten(built({1: picture()}), {1: new_picture()}, STAMP)
    assert heif.opened(result).meta[-1].kind == b"iref"


@pytest.mark.parametrize("iloc", [0, 1, 2])
def test_a_file_with_its_own_pixels_shows_the_same(iloc: int) -> None:
    data = grid_file(Shape(iloc=iloc), _11=Part(b"Exif", exif_item(), (), ((b"cdsc", (9,)),)))
    own = {number: coded(64, 64, number) for number in range(1, 5)}
    result = rewritten(data, own)
    assert np.array_equal(shown(result), shown(data)) and items_of(result) == items_of(data)
    assert len(result) == len(data)


def test_a_thumbnail_that_shares_its_configuration_with_a_gain_map_gets_its_own() -> None:
    """Both were coded alike, so one box served both. A new picture may need another."""
    parts = phone_parts()
    parts[2] = replace(parts[2], properties=parts[3].properties[:2])
    new = new_picture()
    other = Picture(new.config[:-1] + b"\xff", new.data)
    result = rewritten(built(parts), {1: new_picture(96, 80), 2: other})
    assert config_of(result, 2) == other.config and config_of(result, 3) == coded(64, 64, 3).config


def test_a_file_with_more_than_127_properties_takes_one_more() -> None:
    many = tuple(made(b"free", bytes([index])) for index in range(125))
    parts = {1: picture(0), 2: picture(0, *many), 3: picture(5)}
    data = built(parts)
    new = Picture(coded().config[:-1] + b"\xff", coded().data)
    result = rewritten(data, {1: new})
    assert config_of(result, 1) == new.config and config_of(result, 2) == coded().config
    assert kept(result, {1}) == kept(data, {1})
    file = heif.opened(result)
    iprp = heif.only(file.meta, b"iprp")
    ipma = heif.only(boxes(result, iprp.content, iprp.end), b"ipma")
    assert full_box(result, ipma)[1] == 1
    assert all(essential for _, rows in heif.associations(result, ipma) for essential, _ in rows)


def test_bytes_that_another_item_uses_too_stay() -> None:
    data = built({1: picture(0), 2: picture(1, is_hidden=True)})
    file = heif.opened(data)
    first, second = file.items[1].ranges[0], file.items[2].ranges[0]
    # Let the second item start within the first.
    middle = (first[0] + first[1]) // 2
    shared = data.replace(second[0].to_bytes(4, "big"), middle.to_bytes(4, "big"))
    before = items_of(shared)[2]
    assert before[1][:20] == coded().data[middle - first[0] :][:20]
    result = rewritten(shared, {1: new_picture()})
    assert items_of(result)[2] == before and items_of(result)[1][1] == new_picture().data
    assert coded().data[: middle - first[0]] not in result


def test_pixels_in_the_meta_box_move_to_media_data() -> None:
    for shape in (Shape(), Shape(iloc=2)):
        data = built(
            {1: picture(0, in_meta=True), 2: Part(b"Exif", exif_item(), (), ((b"cdsc", (1,)),), in_meta=True)}, 1, shape
        )
        data = data.removesuffix(b"\0\0\0\x08mdat")
        assert b"mdat" not in data
        result = rewritten(data, {1: new_picture()})
        assert items_of(result)[2] == items_of(data)[2] and items_of(result)[1] == (b"hvc1", new_picture().data)
        assert np.array_equal(
            shown(result), shown(built({1: Part(b"hvc1", new_picture().data, picture(0).properties)}))
        )


def test_an_item_inside_another_item_is_kept_or_the_photo_is_refused() -> None:
    parts = {1: picture(0), 2: Part(b"uri ", b"outer"), 3: Part(b"uri ", b"ou", (), ((b"iloc", (2,)),))}
    data = bytearray(built(parts))
    start = data.index(b"iloc") + 4 + 4 + 2 + 2
    entry = start + 2 * (2 + 2 + 2 + 2 + 8)
    assert data[entry : entry + 4] == b"\0\3\0\0"
    data[entry + 3] = 2  # the offset counts from the other item
    data[entry + 8 : entry + 12] = bytes(4)
    result = rewritten(bytes(data), {1: new_picture()})
    location = heif.opened(result).items[3].location
    assert location == heif.opened(bytes(data)).items[3].location and location is not None and location.method == 2
    with pytest.raises(ValueError, match="part of the old pixels"):
        rewritten(bytes(data).replace(b"iloc\0\3\0\1\0\2", b"iloc\0\3\0\1\0\1"), {1: new_picture()})


def test_a_new_packet_gets_a_number_that_nothing_else_has() -> None:
    group = made(b"grpl", full(b"altr", 0, 0, b"\0\0\0\x63\0\0\0\1\0\0\0\1"))
    result = rewritten(built({1: picture()}, 1, Shape(in_meta=(group,))), {1: new_picture()}, STAMP)
    assert 0x64 in items_of(result) and 0x63 not in items_of(result)
    assert heif.opened(result).targets(b"cdsc", 0x64) == (1,)
    last = {1: picture(), 65_535: picture(1)}
    assert 2 in items_of(rewritten(built(last), {1: new_picture()}, STAMP))


def test_the_thumbnail_in_the_exif_block_shows_the_new_pixels_and_no_offset_moves() -> None:
    parts = {1: picture(0, nclx(), width=96, height=80), 2: Part(b"Exif", exif_item(OLD), (), ((b"cdsc", (1,)),))}
    photo = decode(built(parts))
    before, after = container.read(photo.original).exif, container.read(encode(photo, 255 - photo.pixels)).exif
    assert before and after and len(after) == len(before) and after != before
    differences = [index for index in range(300) if after[index] != before[index]]
    assert set(differences) <= set(range(122 + 2 + 12 + 8, 122 + 2 + 12 + 12)) and b"old" not in after


def test_the_motion_video_stays_byte_for_byte_at_the_end() -> None:
    video = made(b"mpvd", FTYP + bytes(range(256)))
    photo = decode(built({1: picture(0, nclx())}, 1, Shape(after=(video,))))
    assert photo.extras == ("motion video",)
    result = encode(photo, 255 - photo.pixels, stamp=STAMP)
    assert result.endswith(video) and decode(result).stamp == STAMP


@pytest.mark.parametrize("grown", [0, 1_000, 2_000_000])
def test_samsungs_record_and_the_packet_still_say_where_the_motion_video_lies(grown: int) -> None:
    def length(number: int) -> bytes:
        return b'Item:Semantic="Primary" Item:Length="%d"' % number

    def file_with(start: int) -> bytes:
        record = b"MotionPhoto_Datampv2" + struct.pack(">II", start + 8, 9)
        other = b"MotionPhoto_Datampv2" + struct.pack(">II", start + 9, 9)
        packet = PLAIN_XMP.replace(b"<rdf:Description", b"<rdf:Description " + length(start), 1)
        parts = {1: picture(0, nclx()), 2: Part(MIME, packet, content_type=XMP, refers=((b"cdsc", (1,)),))}
        return built(parts, 1, Shape(after=(made(b"mpvd", FTYP + record + other),)))

    before = file_with(9_000)
    before = file_with(before.index(b"mpvd") - 4)
    start = before.index(b"mpvd") - 4
    assert length(start) in before, "the made-up file is right"
    new = Picture(coded(64, 64, 0).config, bytes(grown))
    after = heif_rewrite.replace_pixels(
        before, {1: new}, edit_xmp=lambda packet: packet, thumbnail=None, drop_extras=False
    )
    moved = after.index(b"mpvd") - 4
    record, other = after.index(b"mpv2") + 4, after.rindex(b"mpv2") + 4
    assert struct.unpack_from(">II", after, record) == (moved + 8, 9)
    assert struct.unpack_from(">II", after, other) == (start + 9, 9), "a record of something else stays"
    assert length(moved) in after and heif.read(after)[1] is not None


def test_a_heic_without_its_video_no_longer_says_that_it_has_one() -> None:
    parts = {1: picture(0, nclx()), 2: Part(b"mime", MOTION_XMP, (), ((b"cdsc", (1,)),), b"application/rdf+xml")}
    boxes_after = (made(b"mpvd", FTYP), made(b"sefd", b"MotionPhoto_Data"), made(b"sefd", b"vendor's own"))
    photo = decode(built(parts, 1, Shape(after=boxes_after)) + b"no box")
    kept = encode(photo, 255 - photo.pixels, stamp=STAMP)
    assert container.read(kept).xmp == stamped(MOTION_XMP, STAMP) and kept.endswith(b"".join(boxes_after) + b"no box")
    result = encode(photo, 255 - photo.pixels, stamp=STAMP, extras="drop")
    assert container.read(result).xmp == stamped(without_extras(MOTION_XMP), STAMP)
    assert container.extras(result) == () and result.endswith(boxes_after[2]) and b"MotionPhoto" not in result
    assert check_rewritable(photo.original) == ("motion video",) and not check_rewritable(photo.original, extras="drop")


@given(SHAPES, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=150)
def test_a_heic_without_its_extras_keeps_all_that_is_the_photos(
    shape: Shape, has_packet: bool, in_meta: bool, is_shared: bool
) -> None:
    """Item 4 describes the gain map, 21 is its thumbnail, and the tiles 31 to 34 belong to a depth map in a grid."""
    parts = phone_parts()
    parts[3] = replace(parts[3], in_meta=in_meta)
    parts[7] = Part(
        *(b"grid", grid_of(2, 2, 128, 128), (size_of(128, 128), auxiliary(DEPTH))),
        ((b"dimg", (31, 32, 33, 34)), (b"auxl", (1, 8))),
        in_meta=in_meta,
    )
    parts[12] = picture(6, auxiliary(ALPHA), refers=((b"auxl", (1, 8)),))
    parts[13] = picture(7, refers=((b"thmb", (1,)),))
    parts |= {21: picture(2, refers=((b"thmb", (3,)),))}
    parts |= {number: picture(number - 23, is_hidden=True) for number in range(31, 35)}
    if is_shared:
        parts[11] = replace(parts[11], refers=((b"cdsc", (1, 8)),))
    if not has_packet:
        del parts[5]
    group = full(b"altr", 0, 0, struct.pack(">IIII", 99, 2, 8, 1))
    other = full(b"brst", 0, 0, struct.pack(">IIII", 98, 2, 1, 13))
    data = built(parts, 1, replace(shape, in_meta=(*shape.in_meta, made(b"grpl", group + other))), brand=b"tmap")
    encoded = {1: new_picture(96, 80), 2: new_picture(), 13: new_picture()}
    result = rewritten(data, encoded, STAMP, drop=True)
    gone = {3, 4, 7, 8, 21, 31, 32, 33, 34}
    assert heif.items_to_drop(heif.opened(data)) == gone and container.extras(result) == ()
    changed = {1, 2, 13, 5 if has_packet else 100}
    plain = {number: replace(part, refers=_to_photo(part)) for number, part in parts.items() if number not in gone}
    assert kept(result, changed) == kept(built(plain, 1, shape), changed)
    assert set(items_of(result)) == set(plain) | changed
    whole = rewritten(data, encoded, STAMP)
    assert np.array_equal(shown(result), shown(whole)) and group not in result and other in result
    assert not any(word in result for word in (b"tmap", b"of the gain map", b"how bright", APPLE_GAIN_MAP, DEPTH))
    lost = sum(len(parts[number].data) for number in gone)
    assert len(whole) - len(result) >= lost and parts[3].data not in result and parts[12].data in result


def _to_photo(part: Part) -> tuple[tuple[bytes, tuple[int, ...]], ...]:
    return tuple((kind, tuple(number for number in targets if number != 8)) for kind, targets in part.refers)


def test_tiles_that_the_photo_shares_with_another_picture_stay() -> None:
    other = Part(b"grid", grid_of(1, 2, 120, 60), (size_of(120, 60),), ((b"dimg", (1, 5)),))
    data = grid_file(_5=picture(5, is_hidden=True), _20=other)
    assert container.extras(data) == ("other pictures",) and heif.items_to_drop(heif.opened(data)) == {5, 20}


@pytest.mark.parametrize("kind", [b"tmap", b"iovl"])
def test_a_photo_that_is_made_of_its_extras_is_refused(kind: bytes) -> None:
    """Without them, there would be no photo left."""
    depth = picture(1, auxiliary(DEPTH), refers=((b"auxl", (9,)),))
    data = built({1: depth, 9: Part(kind, b"x", (size_of(64, 64),), ((b"dimg", (1,)),))}, 9)
    with pytest.raises(ValueError, match="made of its gain map or of another picture"):
        rewritten(data, {1: new_picture()}, drop=True)


def test_pictures_that_are_made_of_each_other_without_end_are_refused() -> None:
    chain = {number: Part(b"iden", b"", (), ((b"dimg", (number - 1,)),)) for number in range(3, 40)}
    data = built({1: picture(), 2: picture(1, auxiliary(DEPTH), refers=((b"auxl", (1,)),)), **chain})
    with pytest.raises(ValueError, match="too many steps"):
        rewritten(data, {1: new_picture()}, drop=True)


def test_a_file_of_libheif_with_everything_is_written_whole() -> None:
    data = heic(scene(200, 150), exif=exif(), xmp=PLAIN_XMP, thumbnails=[96], tile_size=64)
    photo = decode(data)
    new = 255 - photo.pixels
    result = encode(photo, new, stamp=STAMP)
    after = decode(result)
    assert error(after.pixels, new) < 3 and after.stamp == STAMP and read_stamp(container.read(data).xmp) is None
    assert container.read(result).xmp == stamped(PLAIN_XMP, STAMP)


def test_a_rewritten_file_written_again_has_one_stamp_and_does_not_grow() -> None:
    data = built(phone_parts())
    encoded = {1: new_picture(96, 80), 2: new_picture()}
    once = rewritten(data, encoded, STAMP)
    second = Stamp(model="other", strength=1.0)
    twice = rewritten(once, encoded, second)
    assert container.read(twice).xmp == stamped(PLAIN_XMP, second)
    assert len(twice) < len(once) + 100


@pytest.mark.parametrize(("encoded", "message"), [({}, "do not belong"), ({99: Picture(b"", b"")}, "do not belong")])
def test_pixels_of_another_file_are_refused(encoded: dict[int, Picture], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rewritten(built({1: picture()}), encoded)


def test_pixels_outside_the_media_data_are_refused() -> None:
    data = built({1: picture()})
    start = heif.opened(data).items[1].ranges[0][0]
    wrong = data.replace(
        start.to_bytes(4, "big") + len(coded().data).to_bytes(4, "big"), bytes(4) + (40).to_bytes(4, "big")
    )
    with pytest.raises(ValueError, match="outside the file's media data"):
        rewritten(wrong, {1: new_picture()})


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=300)
def test_damage_gives_a_value_error_or_a_file_with_all_offsets_inside(seed: int, drop: bool) -> None:
    chance = random.Random(seed)
    data = bytearray(grid_file() if chance.random() < 0.3 else built(phone_parts()))
    where = data.index(b"meta")
    for _ in range(chance.randint(1, 6)):
        data[chance.randrange(where, where + 1300)] = chance.randrange(256)
    try:
        file = heif.opened(bytes(data))
        numbers = [item.number for item in file.pictures(file.primary)]
        result = rewritten(bytes(data), dict.fromkeys(numbers, new_picture()), STAMP, drop=drop)
        after = heif.opened(result)
    except ValueError:
        return
    assert all(end <= len(result) for item in after.items.values() for _, end in item.ranges)
    assert all(
        after.content(after.items[number]) == new_picture().data for number in numbers if after.items[number].is_plain
    )


@pytest.mark.parametrize("seed", range(4))
def test_damaged_heics_are_written_whole_or_refused_and_libheif_does_not_crash(
    seed: int, photo: np.ndarray, tmp_path: Path
) -> None:
    """Fifty files a seed, in another process: a crash of libheif would end the tests."""
    files = {kind: data for kind, data in samples(photo).items() if kind.startswith(("heic", "png-8"))}
    for name, data in mutations(files, 67, seed):
        if name.startswith("heic"):
            (tmp_path / name).write_bytes(data)
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(names) >= 50
    done = subprocess.run([sys.executable, "-c", _ENHANCE, *names], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    assert len(words) == len(names) and words.count("written") > 10 and words.count("refused") > 10


_ENHANCE = """
import sys
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable, encode
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp

for name in sys.argv[1:]:
    try:
        photo = decode(open(name, "rb").read())
        again = decode(encode(photo, photo.pixels[::-1], stamp=Stamp(model="m", strength=1.0)))
        assert again.pixels.shape == photo.pixels.shape and again.stamp, name
        print("written")
    except ImageError as error:
        assert error.detail, name
        print("refused")
"""


def test_a_grid_keeps_its_description() -> None:
    data = grid_file()
    result = rewritten(data, {number: new_picture() for number in range(1, 5)}, STAMP)
    assert items_of(result)[9] == (b"grid", grid_of(2, 2, 120, 100))
    assert heif.opened(result).pictures(heif.opened(result).primary)[0].number == 1
    assert size_of(120, 100) in result
