"""New pixels go into a photo's own file, and everything else in it stays."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from naturaltone.pipeline.photo import container, heif_gain_map
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import CONVERTIBLE, check_rewritable, convert, encode
from naturaltone.pipeline.photo.isobmff import made
from naturaltone.pipeline.photo.pixels import to_8bit
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp
from tests.pipeline.photo.files import FTYP, MOTION_XMP, STAMP, exif
from tests.pipeline.photo.gain_maps import linear, pictures
from tests.pipeline.photo.heif_files import HEIF, Part, Shape, apple_note, built, hdr_parts, needs_heif, scene

ToFile = Callable[..., bytes]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", HEIF])
def test_a_photo_comes_back_in_its_own_format_and_size(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format))
    again = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
    assert (again.format, again.size) == (format, (photo.shape[1], photo.shape[0]))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_lossless_formats_keep_every_pixel(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format))
    assert np.array_equal(decoded.pixels, photo)
    assert np.array_equal(decode(encode(decoded, photo)).pixels, photo)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_decoded_upright_and_written_as_it_was_stored_with_its_tag(
    orientation: int, format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    stored = {
        1: photo, 2: photo[:, ::-1], 3: photo[::-1, ::-1], 4: photo[::-1],
        5: photo.transpose(1, 0, 2), 6: np.rot90(photo), 7: np.rot90(photo[:, ::-1], -1), 8: np.rot90(photo, -1),
    }[orientation]  # fmt: skip
    quality = {
        "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95},
    }.get(format, {})  # fmt: skip
    decoded = decode(to_file(np.ascontiguousarray(stored), format, exif=exif, **quality))
    loss = 0 if format in ("PNG", "TIFF") else 4
    assert np.abs(decoded.pixels.astype(int) - photo).mean() <= loss
    written = decode(encode(decoded, decoded.pixels))
    assert np.abs(written.pixels.astype(int) - photo).mean() <= loss, "a viewer would turn the photo again"
    file = encode(decoded, decoded.pixels)
    reopened = Image.open(io.BytesIO(file))
    assert (reopened.getexif().get(0x0112, 1), reopened.getexif()[0x010F]) == (orientation, "Maker")
    if format != "TIFF":  # Pillow turns a TIFF as soon as it opens it
        assert reopened.size == stored.shape[1::-1]


def test_the_exif_block_stays_byte_for_byte(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x927C] = b"maker note with offsets \x00\x01\x02"
    exif.get_ifd(0x8825)[0x0001] = "N"
    data = to_file(photo, exif=exif)
    before = Image.open(io.BytesIO(data)).info["exif"]
    decoded = decode(data)
    after = Image.open(io.BytesIO(encode(decoded, decoded.pixels))).info["exif"]
    assert after == before


def test_profile_xmp_resolution_comment_and_quality_survive(photo: np.ndarray, to_file: ToFile) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = to_file(
        photo, icc_profile=profile, xmp=b"<x:xmpmeta/>", dpi=(240, 240), comment=b"by hand", quality=93, subsampling=0
    )
    decoded = decode(data)
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
    original = Image.open(io.BytesIO(data))
    for name in ("icc_profile", "xmp", "dpi", "comment"):
        assert written.info[name] == original.info[name], name
    assert written.quantization == original.quantization
    assert written.layer == original.layer, "chroma subsampling"


def test_a_pngs_xmp_and_text_survive(photo: np.ndarray, to_file: ToFile) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>five stars</x:xmpmeta>")
    info.add_text("Author", "by hand")
    decoded = decode(to_file(photo, "PNG", pnginfo=info))
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
    assert written.info["xmp"] == b"<x:xmpmeta>five stars</x:xmpmeta>" and written.text["Author"] == "by hand"


def test_a_tiff_of_separate_planes_can_be_read_again(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photo.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")
    decoded = decode(buffer.getvalue())
    assert np.array_equal(decode(encode(decoded, photo)).pixels, photo)


def test_a_tiffs_camera_data_and_gps_position_survive(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:21 14:03:12"
    exif.get_ifd(0x8825)[0x0001] = "N"
    decoded = decode(to_file(photo, "TIFF", exif=exif.tobytes()))
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels))).getexif()
    assert written.get_ifd(0x8769)[0x9003] == "2019:07:21 14:03:12" and written.get_ifd(0x8825)[0x0001] == "N"


def test_metadata_that_cannot_take_a_stamp_is_an_image_error(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, xmp=b"<x:xmpmeta>cut"))
    with pytest.raises(ImageError, match="unwritable"):
        encode(decoded, photo, stamp=Stamp(model="m", strength=1.0))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", HEIF])
def test_a_photo_says_what_was_done_to_it_and_is_not_enhanced_twice(
    format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    stamp = Stamp(model="pretrained-12ab & <more>", strength=0.75, source="0123")
    once = encode(decode(to_file(photo, format)), photo, stamp=stamp)
    decoded = decode(once)
    assert decoded.stamp == stamp
    for refuse in (lambda: encode(decoded, photo), lambda: check_rewritable(once)):
        with pytest.raises(ImageError, match="already_enhanced: by pretrained-12ab"):
            refuse()


@pytest.mark.parametrize("kind", ["layers", "associated alpha"])
def test_a_tiff_with_layers_or_associated_alpha_is_not_rewritten(kind: str, photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    if kind == "layers":
        tifffile.imwrite(buffer, photo, photometric="rgb", extratags=[(37724, 7, 4, b"8BIM", True)])
    else:
        pixels = np.dstack([photo // 2, np.full(photo.shape[:2], 128, np.uint8)])
        tifffile.imwrite(buffer, pixels, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(ImageError, match="unsupported_mode"):
        encode(decode(buffer.getvalue()), photo)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "AVIF", HEIF])
def test_transparency_stays_beside_the_pixels_and_is_written_again(
    format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    lossless = {"lossless": True, "exact": True} if format == "WEBP" else {}
    decoded = decode(to_file(np.dstack([photo, alpha]), format, **lossless))
    assert decoded.alpha is not None and np.abs(decoded.alpha.astype(int) - alpha).max() <= (
        2 if format in ("AVIF", "HEIF") else 0
    )
    again = decode(encode(decoded, decoded.pixels))
    assert again.alpha is not None and np.abs(again.alpha.astype(int) - alpha).max() <= (
        3 if format in ("AVIF", "HEIF") else 0
    )


@pytest.mark.parametrize(
    "kind", ["png", "png-alpha", "png-grey", "tiff<", "tiff>", "tiff-deflate", "tiff-alpha", "tiff-grey"]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_deep_photo_keeps_all_of_its_bits(kind: str, orientation: int, photo: np.ndarray) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, photo.shape, np.uint16)
    channels = {"alpha": 4, "grey": 1}.get(kind.partition("-")[2], 3)
    stored = pixels[..., 0] if channels == 1 else np.dstack([pixels, pixels[..., :1]])[..., :channels]
    if kind.startswith("png"):
        data = cv2.imencode(".png", stored if channels == 1 else stored[..., [2, 1, 0, 3][:channels]])[1].tobytes()
    else:
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            stored,
            byteorder=">" if kind.endswith(">") else "<",
            photometric="minisblack" if channels == 1 else "rgb",
            extrasamples=["unassalpha"] if channels == 4 else None,
            compression="deflate" if "deflate" in kind else None,
            predictor="deflate" in kind,
            extratags=[(274, 3, 1, orientation, True)],
        )
        data = buffer.getvalue()
    decoded = decode(data)
    new = np.random.default_rng(1).integers(0, 2**16, decoded.packed.shape, np.uint16)
    if channels == 1:
        new[...] = new[..., :1]
    again = decode(encode(decoded, new))
    assert again.packed.dtype == np.uint16 and np.array_equal(again.packed, new)
    assert again.has_alpha == decoded.has_alpha == (channels == 4) and again.is_grey == (channels == 1)
    assert again.orientation == decoded.orientation


def test_avif_goes_through_like_the_others(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, "AVIF", quality=95))
    assert np.abs(decoded.pixels.astype(int) - photo).mean() < 4
    assert Image.open(io.BytesIO(encode(decoded, decoded.pixels))).format == "AVIF"


def test_a_multi_picture_jpeg_keeps_its_other_pictures_unless_they_are_to_go(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    first, second = Image.fromarray(photo), Image.fromarray(photo[::-1])
    first.save(buffer, format="MPO", save_all=True, append_images=[second])
    decoded = decode(buffer.getvalue())
    with pytest.raises(ImageError, match=r"other_pictures: .*--hdr keep"):
        encode(decoded, decoded.pixels, extras="skip")
    both = Image.open(io.BytesIO(encode(decoded, 255 - decoded.pixels)))
    assert (both.format, both.n_frames) == ("MPO", 2)
    assert np.abs(np.asarray(both).astype(int) - (255 - photo)).mean() < 8
    both.seek(1)
    old = Image.open(buffer)
    old.seek(1)
    assert np.array_equal(np.asarray(both), np.asarray(old)), "the other picture is found, and is the same"
    alone = Image.open(io.BytesIO(encode(decoded, decoded.pixels, extras="drop")))
    assert (alone.format, getattr(alone, "n_frames", 1)) == ("JPEG", 1)


CAMERA_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/></rdf:RDF></x:xmpmeta>'
)


def described(pixels: np.ndarray, format: str, to_file: ToFile, *, orientation: int = 6) -> tuple[bytes, bytes]:
    """A file with camera data, a GPS position, a profile and XMP; and its profile."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2019:07:21 14:03:12"
    exif.get_ifd(0x8825)[0x0001] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, object] = {"exif": exif, "icc_profile": profile, "xmp": CAMERA_XMP, "quality": 95}
    if format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", CAMERA_XMP.decode())  # type: ignore[attr-defined]
        del options["xmp"], options["quality"]
    if format == "TIFF":
        exif[700] = CAMERA_XMP
        options["exif"] = exif.tobytes()
        del options["xmp"], options["quality"]
    return to_file(pixels, format, **options), profile


def test_an_avif_with_a_gain_map_is_not_written_without_it_unless_this_is_asked_for(
    photo: np.ndarray, to_file: ToFile
) -> None:
    plain = to_file(photo, "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    data = plain.replace(b"ExifExif", b"tmapExif", 1)  # the kind of an item, and its name
    for extras in ("keep", "skip"):
        with pytest.raises(ImageError, match="--hdr drop leaves it out") as caught:
            check_rewritable(data, extras=extras)  # type: ignore[arg-type]
        assert caught.value.reason == "hdr_gain_map"
    assert check_rewritable(data, extras="drop") == ()
    decoded = decode(data)
    assert decode(encode(decoded, decoded.pixels, extras="drop")).format == "AVIF"


@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", HEIF])
@pytest.mark.parametrize("target", CONVERTIBLE)
def test_a_converted_photo_keeps_its_metadata_and_stays_upright(
    source: str, target: str, photo: np.ndarray, to_file: ToFile
) -> None:
    data, profile = described(photo, source, to_file)
    decoded, stamp = decode(data), Stamp(model="m", strength=0.5)
    converted = convert(decoded, decoded.packed, format=target, stamp=stamp)
    again, image = decode(converted), Image.open(io.BytesIO(converted))
    assert (again.format, again.stamp, again.icc_profile) == (target, stamp, profile)
    assert np.abs(again.pixels.astype(int) - decoded.pixels).mean() < 4, "a viewer would show it on its side"
    exif = image.getexif()
    assert exif[0x010F] == "Maker" and exif.get_ifd(0x8825)[1] == "N"
    assert exif.get_ifd(0x8769)[0x9003] == "2019:07:21 14:03:12"
    assert b'Rating="5"' in image.info["xmp"] or b">5<" in image.info["xmp"]


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("target", CONVERTIBLE)
def test_no_file_keeps_a_thumbnail_of_the_old_pixels(source: str, target: str, photo: np.ndarray) -> None:
    buffer, old = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo).resize((160, 112)).save(old, "JPEG", quality=95)
    Image.fromarray(photo).save(buffer, source, exif=exif(thumbnail=old.getvalue() + bytes(9000)))
    decoded = decode(buffer.getvalue())
    new = convert(decoded, np.zeros_like(decoded.packed), format=target)
    block = container.read(new).exif or Image.open(io.BytesIO(new)).info["exif"]
    assert old.getvalue() not in block
    if target != "AVIF":  # Pillow writes the block of a turned photo anew, without its thumbnail
        thumbnail = Image.open(io.BytesIO(block[block.index(b"\xff\xd8\xff") :]))
        assert np.asarray(thumbnail).max() < 10


@pytest.mark.parametrize("target", CONVERTIBLE)
@pytest.mark.parametrize("kind", ["deep", "grey", "alpha"])
def test_deep_grey_and_transparent_photos_can_be_converted(
    kind: str, target: str, photo: np.ndarray, to_file: ToFile
) -> None:
    if kind == "deep":
        data = cv2.imencode(".png", photo.astype(np.uint16)[..., ::-1] * 257)[1].tobytes()
    elif kind == "grey":
        data = to_file(photo[..., 0], "PNG")
    else:
        data = to_file(np.dstack([photo, photo[..., 0]]), "PNG")
    decoded = decode(data)
    if kind == "alpha" and target == "JPEG":
        with pytest.raises(ImageError, match=r"bad_parameter: .*JPEG cannot hold; use png or webp"):
            convert(decoded, decoded.packed, format=target)
        return
    again = decode(convert(decoded, decoded.packed, format=target, quality=95))
    assert again.packed.dtype == np.uint8 or target == "PNG", "a PNG stays as it is"
    assert again.has_alpha == decoded.has_alpha
    assert np.abs(to_8bit(again.pixels).astype(int) - to_8bit(decoded.pixels)).mean() < 8


def test_pixels_without_opacity_keep_that_of_the_photo(photo: np.ndarray, to_file: ToFile) -> None:
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    decoded = decode(to_file(np.dstack([photo, alpha]), "TIFF"))
    again = decode(convert(decoded, photo, format="PNG"))
    assert again.alpha is not None and np.array_equal(again.alpha, alpha) and np.array_equal(again.pixels, photo)


def test_a_converted_photo_is_refused_for_the_same_reasons(photo: np.ndarray, to_file: ToFile) -> None:
    once = convert(decode(to_file(photo)), photo, format="PNG", stamp=Stamp(model="m", strength=1.0))
    with pytest.raises(ImageError, match="already_enhanced"):
        convert(decode(once), photo, format="WEBP")
    with pytest.raises(ImageError, match="unwritable"):
        broken = decode(to_file(photo, xmp=b"<x:xmpmeta>cut"))
        convert(broken, photo, format="PNG", stamp=Stamp(model="m", strength=1.0))


def test_quality_reaches_the_converted_file(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, "PNG"))
    for target in ("JPEG", "WEBP", "AVIF"):
        sizes = [len(convert(decoded, photo, format=target, quality=quality)) for quality in (20, 90)]
        assert sizes[0] < sizes[1], target


@needs_heif
def test_a_jpeg_of_an_hdr_heic_is_as_much_lighter_at_each_point() -> None:
    """Upright, with the photo's new pixels, and with the map of the old ones."""
    values = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None], 64, axis=0)
    parts = hdr_parts(values, scene(256, 128), made(b"irot", b"\3"), note=apple_note((33, 101, 100), (48, 1, 1)))
    decoded = decode(built(parts))
    result = convert(decoded, 255 - decoded.pixels, format="JPEG", stamp=STAMP)
    assert check_rewritable(decoded.original, format="JPEG") == container.extras(result) == ("HDR gain map",)
    base, stops, most = pictures(result)
    assert np.abs(base - linear(255 - decoded.pixels)).mean() < 0.01 and most == pytest.approx(2)
    encoded = cv2.resize(
        np.rot90(values, 3).astype(np.float32) / 255, base.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )
    light = np.where(encoded < 0.081, encoded / 4.5, ((encoded + 0.099) / 1.099) ** (1 / 0.45))
    assert np.abs(stops - np.log2(1 + 3 * light)).mean() < 2 / 255
    assert decode(result).stamp == STAMP and decode(result).pixels.shape == decoded.pixels.shape


@needs_heif
def test_what_another_format_of_an_hdr_heic_keeps_is_known_before() -> None:
    values = np.zeros((64, 64), np.uint8)
    motion = Part(b"mime", MOTION_XMP, (), ((b"cdsc", (1,)),), b"application/rdf+xml")
    parts = hdr_parts(values, scene(128, 128), note=apple_note((33, 101, 100), (48, 1, 1))) | {9: motion}
    data = built(parts, 1, Shape(after=(made(b"mpvd", FTYP),)))
    decoded = decode(data)
    assert check_rewritable(data) == decoded.extras == ("HDR gain map", "motion video")
    for format, extras, expected in (
        *(("JPEG", "keep", ("HDR gain map",)), ("JPEG", "drop", ()), ("AVIF", "keep", ()), ("AVIF", "drop", ())),
    ):
        assert check_rewritable(data, format=format, extras=extras) == expected  # type: ignore[arg-type]
        result = convert(decoded, decoded.pixels, format=format, extras=extras)  # type: ignore[arg-type]
        assert container.extras(result) == expected
        assert b"MotionPhoto" not in result, "the video is not in it"
    for format in ("JPEG", "AVIF"):
        with pytest.raises(ImageError, match="hdr_gain_map"):
            convert(decoded, decoded.pixels, format=format, extras="skip")
    del parts[3]
    assert check_rewritable(built(parts), format="JPEG") == ()


@needs_heif
def test_a_broken_gain_map_is_not_lost_silently() -> None:
    parts = hdr_parts(np.zeros((64, 64), np.uint8), scene(128, 128), note=apple_note((33, 101, 100), (48, 1, 1)))
    decoded = decode(built(parts | {2: replace(parts[2], data=b"\0\0\0\4text")}))
    with pytest.raises(ImageError, match=r"truncated: its HDR gain map cannot be read .*--hdr drop"):
        convert(decoded, decoded.pixels, format="JPEG")
    assert convert(decoded, decoded.pixels, format="JPEG", extras="drop").startswith(b"\xff\xd8")


@needs_heif
def test_too_little_memory_for_a_gain_map_does_not_condemn_a_good_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(data: bytes) -> None:
        raise MemoryError

    parts = hdr_parts(np.zeros((64, 64), np.uint8), scene(128, 128), note=apple_note((33, 101, 100), (48, 1, 1)))
    decoded = decode(built(parts))
    monkeypatch.setattr(heif_gain_map, "read", no_memory)
    with pytest.raises(MemoryError):
        convert(decoded, decoded.pixels, format="JPEG")
