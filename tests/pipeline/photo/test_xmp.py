"""XMP packets: a stamp goes in and comes out, and everything that other programs wrote stays."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo.xmp import (
    Stamp,
    announces_gain_map,
    announces_video,
    gain_map_packet,
    lists_items,
    read_stamp,
    stamped,
    with_gain_map,
    with_length,
    without_extras,
)

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
STAMP = Stamp(model="retouch@3", strength=0.8, source="sha256:12ab")
PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Some Tool &lt;1&gt;">
 <!-- </rdf:RDF> in a comment -->
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="uuid:7" xmlns:dc='http://purl.org/dc/elements/1.1/'
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating = "5">
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Zürich é 写真</rdf:li></rdf:Alt></dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
{" " * 100}
<?xpacket end="w"?>""".encode()
EXTRAS = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF}">
 <r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"
   xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0" h:GainMapMax='2.5'
   xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
   xmlns:G="http://ns.google.com/photos/1.0/camera/" G:MotionPhoto="1" G:MotionPhotoVersion="1" G:MicroVideo="0"
   xmlns:a="http://ns.apple.com/HDRGainMap/1.0/" a:HDRGainMapVersion="65536" G:SpecialTypeID="boost">
  <C:Directory><r:Seq><r:li r:parseType="Resource"><C:Item Item:Semantic="GainMap" Item:Mime="image/jpeg"/></r:li>
   <r:li r:parseType="Resource"><C:Item Item:Semantic="MotionPhoto" Item:Length="77"/></r:li></r:Seq></C:Directory>
  <h:OffsetSDR>0</h:OffsetSDR>
  <xmp:CreatorTool>Camera &amp; Co</xmp:CreatorTool>
 </r:Description></r:RDF></x:xmpmeta>""".encode()


def test_a_photo_without_a_packet_gets_one_that_says_what_was_done() -> None:
    packet = stamped(None, STAMP)
    assert read_stamp(packet) == STAMP
    assert packet.startswith(b'<?xpacket begin="\xef\xbb\xbf"') and packet.endswith(b'<?xpacket end="w"?>')
    ET.fromstring(packet)


def test_nothing_but_the_stamp_is_added_to_a_packet() -> None:
    packet = stamped(PACKET, STAMP)
    ours = b"<rdf:Description" + packet.split(b"<rdf:Description")[-1].split(b"/>\n")[0] + b"/>\n"
    assert packet.replace(ours, b"") == PACKET
    assert b'rdf:about="uuid:7"' in ours, "a packet that describes two things is refused by other programs"
    assert read_stamp(packet) == STAMP
    ET.fromstring(packet)


def test_a_second_stamp_replaces_the_first() -> None:
    second = Stamp(model="other", strength=0.25)
    assert stamped(stamped(PACKET, STAMP), second) == stamped(PACKET, second)
    assert read_stamp(stamped(stamped(None, STAMP), second)) == second


def test_a_stamp_that_another_program_rewrote_is_read_and_replaced() -> None:
    rewritten = f"""<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='{RDF}'>
 <rdf:Description rdf:about='' xmlns:n='https://naturaltone.dev/ns/1.0/' xmlns:dc="http://purl.org/dc/elements/1.1/">
  <n:Model>retouch é &amp; co</n:Model><n:Strength>0.5</n:Strength><dc:format>image/jpeg</dc:format>
 </rdf:Description></rdf:RDF></x:xmpmeta>""".encode()
    assert read_stamp(rewritten) == Stamp(model="retouch é & co", strength=0.5)
    packet = stamped(rewritten, STAMP)
    assert read_stamp(packet) == STAMP and b"retouch \xc3\xa9" not in packet and b"<dc:format>image/jpeg" in packet
    ET.fromstring(packet)


@pytest.mark.parametrize("prefix", ["rdf", "r", "RDF-1"])
@pytest.mark.parametrize("empty", [True, False])
def test_any_prefix_of_the_rdf_element_works_and_so_does_an_empty_element(prefix: str, empty: bool) -> None:
    rest = "/>" if empty else f"></{prefix}:RDF>"
    packet = stamped(f'<{prefix}:RDF xmlns:{prefix}="{RDF}" {rest}'.encode(), STAMP)
    assert read_stamp(packet) == STAMP
    assert ET.fromstring(packet)[0].tag == f"{{{RDF}}}Description"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_packet_stays_in_its_encoding(encoding: str, mark: str) -> None:
    text = PACKET.decode()
    packet = stamped((mark + text).encode(encoding), STAMP)
    assert packet.decode(encoding) == mark + stamped(PACKET, STAMP).decode()
    assert read_stamp(packet) == STAMP
    assert without_extras((mark + EXTRAS.decode()).encode(encoding)) == (mark + without_extras(EXTRAS).decode()).encode(
        encoding
    )


@pytest.mark.parametrize(
    "packet",
    [b"", b"no XML", b"<x:xmpmeta/>", PACKET[:300], b"<rdf:RDF", PACKET.decode().encode("utf-16-le")[:-1], b"<a <b>"],
)
def test_a_packet_that_cannot_be_added_to_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="XMP packet"):
        stamped(packet, STAMP)
    assert read_stamp(packet) is None


def test_what_describes_gain_maps_and_videos_is_cut_out_and_all_else_stays() -> None:
    cleaned = without_extras(EXTRAS)
    assert cleaned.decode() == (
        f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF}">
 <r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"
   xmlns:G="http://ns.google.com/photos/1.0/camera/" G:SpecialTypeID="boost">
  <xmp:CreatorTool>Camera &amp; Co</xmp:CreatorTool>
 </r:Description></r:RDF></x:xmpmeta>"""
    )
    ET.fromstring(cleaned)
    assert announces_gain_map(EXTRAS) and announces_video(EXTRAS)
    assert not announces_gain_map(cleaned) and not announces_video(cleaned)


def test_a_packet_says_which_gain_map_follows_the_photo_and_can_take_it_back() -> None:
    others = [stamped(None, STAMP), PACKET, b'<a:RDF xmlns:a="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>', None]
    for packet in others:
        result = with_gain_map(packet, 1234)
        assert announces_gain_map(result) and lists_items(result) and not announces_video(result)
        space, item = (
            "{http://ns.google.com/photos/1.0/container/}",
            "{http://ns.google.com/photos/1.0/container/item/}",
        )
        (directory,) = ET.fromstring(result).iter(f"{space}Directory")
        rows = [(row.get(f"{item}Semantic"), row.get(f"{item}Length")) for row in directory.iter(f"{space}Item")]
        assert rows == [("Primary", None), ("GainMap", "1234")]
        assert {row.get(f"{item}Mime") for row in directory.iter(f"{space}Item")} == {"image/jpeg"}
        again = without_extras(result)
        assert not announces_gain_map(again) and not lists_items(again)
        assert read_stamp(stamped(result, STAMP)) == STAMP
    assert PACKET.partition(b"<rdf:Description")[0] in with_gain_map(PACKET, 1)


@pytest.mark.parametrize(
    "form", ['i:Length="%s"', "i:Length='%s'", "<i:Length>%s</i:Length>", "<i:Length> %s </i:Length>"]
)
def test_the_length_of_an_item_changes_and_nothing_else(form: str) -> None:
    packet = (form % 4711 + ' i:Length="47110" i:Padding="4711" x:WaveLength="4711"').encode()
    assert (
        with_length(packet, 4711, 12) == (form % 12 + ' i:Length="47110" i:Padding="4711" x:WaveLength="4711"').encode()
    )
    assert with_length(packet, 471, 12) is packet


def test_the_packet_of_a_gain_map_has_its_numbers() -> None:
    (about,) = ET.fromstring(gain_map_packet({"GainMapMax": 2.5, "OffsetSDR": 1e-5})).iter(f"{{{RDF}}}Description")
    space = "{http://ns.adobe.com/hdr-gain-map/1.0/}"
    assert (about.get(f"{space}GainMapMax"), about.get(f"{space}OffsetSDR")) == ("2.500000", "0.000010")


def test_a_packet_without_extras_stays_as_it_is() -> None:
    assert without_extras(PACKET) == PACKET and without_extras(stamped(PACKET, STAMP)) == stamped(PACKET, STAMP)


def test_a_still_photo_of_a_camera_that_takes_motion_photos_is_a_still_photo() -> None:
    assert not announces_video(
        EXTRAS.replace(b'MotionPhoto="1"', b'MotionPhoto="0"').replace(b'"MotionPhoto"', b'"Primary"')
    )


@given(
    model=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    strength=st.floats(allow_nan=False),
    source=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_any_stamp_is_read_as_it_was_written(model: str, strength: float, source: str) -> None:
    stamp = Stamp(model=model, strength=strength, source=source)
    for packet in (None, PACKET, PACKET.decode().encode("utf-16-be")):
        assert read_stamp(stamped(packet, stamp)) == stamp


@given(data=st.data())
def test_a_damaged_packet_raises_nothing_but_value_error(data: st.DataObject) -> None:
    packet = bytearray(data.draw(st.sampled_from([PACKET, EXTRAS, stamped(EXTRAS, STAMP)])))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(packet) - 1))
        packet[position : position + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    for change in (lambda xmp: stamped(xmp, STAMP), without_extras):
        try:
            change(bytes(packet))
        except ValueError as error:
            assert "XMP packet" in str(error)
    read_stamp(bytes(packet)), announces_gain_map(bytes(packet)), announces_video(bytes(packet))


@pytest.mark.parametrize("piece", [b"<!--", b"<a ", b"<a>", b"<?", b'<a b="', b" ", b"<a xmlns:b=''>", b'<a b="c"/>'])
def test_a_made_up_packet_costs_no_more_time_than_its_length(piece: bytes) -> None:
    packet = b"<x" + piece * (2**17 // len(piece))
    for change in (lambda xmp: stamped(xmp, STAMP), without_extras):
        with pytest.raises(ValueError):
            change(packet)
    assert read_stamp(packet) is None
