"""Photo files to upright RGB arrays and back, with their metadata; the only file that imports PIL."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import tifffile
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp, stamped

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
if HAS_HEIF:  # the optional extra [heif]
    import pillow_heif

    # Thumbnails and depth maps are neither looked at nor rewritten: do not decode them.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

# The limits are ours: decode() reads the size from the header and refuses before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# A picture in one piece of memory, which NumPy can look at where it is: a copy of it takes as long as decoding it did.
Image.core.set_use_block_allocator(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it would say is said by ImageError

MAX_PIXELS = 200_000_000
MAX_BYTES = 2**30
MIN_SIDE = 16
FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", *({"HEIF"} if HAS_HEIF else ())}
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
# Found as photos, to be refused with their reason rather than passed over.
REFUSED_SUFFIXES = (*RAW_SUFFIXES, ".bmp", ".gif", ".jp2", ".jxl", ".psd")

_NAMED_FORMATS = ("BMP", "GIF", "JPEG2000", "PSD")  # opened only to say what they are
_READABLE = "use JPEG, PNG, TIFF, WebP, AVIF or HEIC"
_RAW = "a camera's RAW file; develop it to JPEG, TIFF or PNG with darktable or RawTherapee first"
_HEIF = "HEIC needs an optional package; install it with `pip install 'naturaltone[heif]'`"
# First bytes at an offset, and the reason and detail for what they start.
_SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW", "raw", _RAW),
    (0, b"IIU\0", "raw", _RAW),  # Panasonic
    (0, b"IIRO", "raw", _RAW),  # Olympus
    (0, b"IIRS", "raw", _RAW),
    (0, b"MMOR", "raw", _RAW),
    (0, b"FOVb", "raw", _RAW),  # Sigma
    (4, b"ftypcrx ", "raw", _RAW),  # Canon CR3
    (8, b"CR\x02\0", "raw", _RAW),  # Canon CR2, a TIFF
    *((4, b"ftyp" + brand, "unsupported_format", _HEIF) for brand in (b"heic", b"heix", b"mif1", b"hevc", b"heim")),
    (0, b"\xff\x0a", "unsupported_format", f"JPEG XL; {_READABLE}"),
    (0, b"\0\0\0\x0cJXL ", "unsupported_format", f"JPEG XL; {_READABLE}"),
)
_ORIENTATION = 0x0112
_COMPRESSION, _UNCOMPRESSED = 259, 1
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SUB_IFDS, _DNG_VERSION = 254, 258, 262, 284, 330, 50706
_EXTRA_SAMPLES, _ASSOCIATED, _PHOTOSHOP_LAYERS = 338, 1, 37724
_MIN_IS_WHITE, _RAW_PHOTOMETRICS, _SEPARATE_PLANES = 0, (32803, 34892), 2
_GRAPHIC_ROWS, _GRAPHIC_SHARE, _GRAPHIC_LEAST = 200, 0.6, 0.2
_THUMBNAIL = 160  # pixels of the long side: what DCF asks of cameras
_SRGB = ImageCms.createProfile("sRGB")
_BLOCK = 8
_EXTRAS = {
    "HDR gain map": "HDR gain map, which new pixels would not fit; --hdr drop writes the plain photo without it",
    "motion video": "enclosed motion video, which new pixels would not fit; --hdr drop writes the plain photo without it",
    "other pictures": "other picture (depth, stereo or panorama) beside the photo; --hdr drop writes the photo without it",
}
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


class ImageError(ValueError):
    """A photo that cannot be used, with a stable reason code for reports and HTTP."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded photo, upright, and what it takes to write it again.

    `packed` is H×W×3 or H×W×4 (the fourth channel is opacity if `has_alpha`, else nothing) uint8, uint16 if the file has more
    than 8 bits, encoded in the photo's own `icc_profile` (sRGB if there is none); a grey photo has three equal channels.
    `orientation` is that of the file's own pixels. `extras` are what else the file holds (`container.extras`). `stamp` says
    what was done to it before. `read_only` says why `encode` would refuse it, None if it would not.
    """

    packed: np.ndarray
    has_alpha: bool
    format: str
    icc_profile: bytes | None
    is_grey: bool
    orientation: int
    coding: dict[str, Any]
    original: bytes
    extras: tuple[str, ...]
    stamp: Stamp | None
    read_only: ImageError | None

    @property
    def pixels(self) -> np.ndarray:
        """H×W×3."""
        return self.packed[..., :3]

    @property
    def alpha(self) -> np.ndarray | None:
        """H×W opacity, None if the file has none."""
        return self.packed[..., 3] if self.has_alpha else None

    @property
    def megapixels(self) -> float:
        return self.packed.shape[0] * self.packed.shape[1] / 1e6


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Photo:
    """Decode a photo file of any of `FORMATS`; `ImageError` says why another is refused, from the header if it can."""
    check_bytes(len(data), max_bytes=max_bytes)
    image = _open(data)
    try:
        _refuse_unsupported(image, max_pixels)
        depth = _bit_depth(image, data)
        coding = _coding(image, data)
        orientation = image.getexif().get(_ORIENTATION, 1)
        image.load()  # also for the deep formats: OpenCV would fill what a truncated file lacks with nothing
        if depth > 8:
            packed, has_alpha, is_grey = _deep_arrays(image, data, depth, orientation)
        else:
            # Pillow copies a photo that it has nothing to turn in.
            packed, has_alpha, is_grey = _arrays(ImageOps.exif_transpose(image) if orientation != 1 else image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins meet broken files with whatever their parsers run into
        what = str(error) or type(error).__name__
        raise ImageError("truncated", f"the pixels cannot be read ({what}); restore the file from a backup") from None
    return Photo(
        packed=packed,
        has_alpha=has_alpha,
        format="JPEG" if image.format == "MPO" else str(image.format),
        # The inks of a CMYK photo have become sRGB.
        icc_profile=None if image.mode == "CMYK" else image.info.get("icc_profile"),
        is_grey=is_grey,
        orientation=orientation if orientation in range(1, 9) else 1,
        coding=coding,
        original=data,
        extras=container.extras(data),
        stamp=_stamp(image, data),
        read_only=_read_only(image, depth),
    )


def size(data: bytes) -> tuple[int, int]:
    """Width and height of a photo file, from its header; `ImageError` as `decode`."""
    try:
        return _open(data).size
    except TypeError as error:  # a TIFF without them
        raise ImageError("truncated", f"the header cannot be read ({error}); restore the file from a backup") from None


def check_bytes(size: int, *, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a file by its size, before it is read."""
    if size > max_bytes:
        raise ImageError("too_large", f"{size / 2**20:.0f} MiB; the limit is {max_bytes / 2**20:.0f} MiB")


def refuse_raw(name: str) -> None:
    """Refuse a camera's RAW file by its name, before it is read."""
    if name.lower().endswith(RAW_SUFFIXES):
        raise ImageError("raw", _RAW)


def encode(
    photo: Photo,
    pixels: np.ndarray,
    *,
    stamp: Stamp | None = None,
    quality: int | None = None,
    drop_extras: bool = False,
) -> bytes:
    """The photo's own file with other pixels: upright, of the size and depth of `photo.packed`; all else stays.

    A photo with opacity keeps it if the pixels are H×W×3. stamp: what was done, for the file to say. quality: of JPEG, WebP
    and AVIF (1 to 100; default: at least the file's own). drop_extras: leave out HDR gain maps and motion videos, which a
    photo with them is refused for otherwise; with new pixels they would be wrong.
    """
    refuse_to_rewrite(photo, drop_extras=drop_extras)
    if photo.has_alpha and pixels.shape[2] == 3:
        pixels = np.dstack([pixels, photo.packed[..., 3]])
    stored = np.ascontiguousarray(_stored(pixels, photo.orientation))
    try:
        if photo.format == "AVIF":
            return _pillow_bytes(photo, stored, quality, **_stamped_info(photo, stamp))
        coded = _code(photo, stored, quality)
        return container.rebuild(
            photo.original,
            coded,
            stamp=stamp,
            thumbnail=lambda limit: _thumbnail(stored, limit),
            drop_extras=drop_extras,
        )
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise ImageError("unwritable", f"it cannot be written again as {photo.format} ({error})") from None


def refuse_to_rewrite(photo: Photo, *, drop_extras: bool = False) -> None:
    """The `ImageError` with which `encode` would refuse the photo, before any work."""
    _refuse_to_rewrite(photo.read_only, photo.stamp, photo.extras, drop_extras)


def check_rewritable(data: bytes, *, drop_extras: bool = False) -> None:
    """Refuse a photo file as `decode` and `refuse_to_rewrite` would, as far as its header tells."""
    check_bytes(len(data))
    size(data)
    image = _open(data)
    _refuse_unsupported(image, MAX_PIXELS)
    read_only = _read_only(image, _bit_depth(image, data))
    _refuse_to_rewrite(read_only, _stamp(image, data), container.extras(data), drop_extras)


def _refuse_to_rewrite(
    read_only: ImageError | None, stamp: Stamp | None, extras: tuple[str, ...], drop_extras: bool
) -> None:
    if stamp is not None:
        raise ImageError("already_enhanced", f"by {stamp.model}; enhance the original instead")
    if read_only:
        raise read_only
    for extra in extras:
        if extra in _EXTRAS and not drop_extras:
            raise ImageError(extra.replace(" ", "_").lower(), f"the file holds an {_EXTRAS[extra]}")


def stamp_of(data: bytes) -> Stamp | None:
    """What was done to a photo file, from its header; None if nothing was, or it is no photo."""
    try:
        return _stamp(_open(data), data)
    except ImageError:
        return None


def _stamp(image: Image.Image, data: bytes) -> Stamp | None:
    return read_stamp(image.info.get("xmp") or container.read(data).xmp)


def recode(source: str, target: str) -> None:
    """Decode a JPEG file and encode it again as it was: Pillow's bare cost, for comparison."""
    image = Image.open(source)
    image.load()
    image.save(target, quality="keep")


def is_graphic(photo: Photo) -> bool:
    """Whether it is a screenshot or a drawing rather than a photo: most pixels are exactly like the one beside them.

    A camera's noise makes neighbours differ, in a sky too; what it clips to white is left out of the count.
    """
    pixels = photo.pixels[:: max(1, len(photo.packed) // _GRAPHIC_ROWS)]
    is_same = (pixels[:, 1:] == pixels[:, :-1]).all(axis=2)
    white = np.iinfo(pixels.dtype).max
    counts = ~((pixels[:, 1:] == white).all(axis=2) | (pixels[:, 1:] == 0).all(axis=2))
    # Text on white has little else than white: what is flat and white counts if hardly anything else is there.
    share = is_same[counts].mean() if counts.mean() > _GRAPHIC_LEAST else is_same.mean()
    return bool(share > _GRAPHIC_SHARE)


def training_pixels(photo: Photo) -> np.ndarray:
    """The photo as the networks see it: H×W×3 uint8 sRGB, transparent places over white, as viewers show them."""
    pixels = to_srgb(to_8bit(photo.pixels), photo.icc_profile)
    if photo.alpha is None:
        return pixels
    opacity = to_8bit(photo.alpha)[..., None]
    if opacity.min() == 255:
        return pixels
    share = opacity.astype(np.uint32)
    return ((pixels * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def to_8bit(values: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16 values, rounded."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """H×W×3 uint8 sRGB pixels as a JPEG without chroma subsampling: how shards and sheets store pictures.

    A restart marker behind every row of blocks (0.2% more bytes) lets `decode_rows` leave out the others.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling=0, restart_marker_rows=1)
    return buffer.getvalue()


def decode_rgb(data: bytes) -> np.ndarray:
    """H×W×3 uint8 pixels of a picture that this project wrote itself (`encode_jpeg`).

    OpenCV's decoder makes the same pixels as Pillow's in 15% less time, and training waits for this one.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError("truncated", "a stored picture cannot be read; ingest into a new store")
    return pixels


def decode_rows(data: bytes, top: int, bottom: int) -> np.ndarray:
    """The rows [top, bottom) of `decode_rgb`'s pixels, in the time that these rows take.

    Without subsampling, rows of 8×8 blocks know nothing of each other but the predicted DC value, which a restart marker
    resets (ITU-T T.81, F.1.1.5.1): those that are wanted make a JPEG of their own.
    """
    frame, scan = _jpeg_frame_and_scan(data)
    height = int.from_bytes(data[frame + 5 : frame + 7], "big")
    cuts = [scan, *(marker.end() for marker in _RESTART.finditer(data, scan)), len(data)]
    if len(cuts) != -(-height // _BLOCK) + 1:
        return decode_rgb(data)[top:bottom]
    first, last = top // _BLOCK, -(-bottom // _BLOCK)
    parts = [
        data[: frame + 5],
        (min(last * _BLOCK, height) - first * _BLOCK).to_bytes(2, "big"),
        data[frame + 7 : scan],
    ]
    for number, row in enumerate(range(first, last)):
        parts += [data[cuts[row] : cuts[row + 1] - 2], b"\xff" + bytes([0xD0 + number % 8])]
    parts[-1] = b"\xff\xd9"
    return decode_rgb(b"".join(parts))[top - first * _BLOCK : bottom - first * _BLOCK]


def _jpeg_frame_and_scan(data: bytes) -> tuple[int, int]:
    """Where a JPEG's frame header begins, and where its coded pixels do."""
    frame, place = 0, 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= data[place + 1] <= 0xC2:
            frame = place
        if data[place + 1] == 0xDA:
            return frame, place + 2 + length
        place += 2 + length
    raise ImageError("truncated", "a stored picture cannot be read; ingest into a new store")


def to_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert pixels encoded in `icc_profile` to sRGB; the same array when they already are."""
    return _convert(pixels, icc_profile, into_srgb=True)


def from_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert sRGB pixels to the encoding of `icc_profile`; the inverse of `to_srgb` inside its gamut."""
    return _convert(pixels, icc_profile, into_srgb=False)


def _convert(pixels: np.ndarray, icc_profile: bytes | None, *, into_srgb: bool) -> np.ndarray:
    if icc_profile is None:
        return pixels
    try:
        transform, mode = _transform(icc_profile, into_srgb)
        if transform is None:
            return pixels
        if mode == "L":  # a grey profile: one channel on its side of the conversion
            image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if into_srgb else pixels)
        else:
            image = Image.fromarray(pixels)
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ImageError("bad_profile", f"the embedded colour profile cannot be used ({error})") from None
    return np.asarray(converted.convert("RGB"))


@functools.lru_cache(maxsize=8)
def _transform(icc_profile: bytes, into_srgb: bool) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The conversion between a profile and sRGB (None: it is sRGB) and its own side's mode; archives repeat a few."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    space = profile.profile.xcolor_space.strip()
    if space not in ("RGB", "GRAY"):
        raise ValueError(f"it is for {space} on pixels that are not")
    mode = "L" if space == "GRAY" else "RGB"
    ends = (profile, _SRGB, mode, "RGB") if into_srgb else (_SRGB, profile, "RGB", mode)
    transform = ImageCms.buildTransform(*ends)
    if mode == "RGB":  # sRGB by what it does, since there are many of that name
        swatch = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        if np.abs(np.asarray(transform.apply(Image.fromarray(swatch))).astype(int) - swatch).max() <= 1:
            return None, mode
    return transform, mode


def _open(data: bytes) -> Image.Image:
    for offset, signature, reason, detail in _SIGNATURES:
        if data.startswith(signature, offset) and not (detail is _HEIF and HAS_HEIF):
            raise ImageError(reason, detail)
    try:
        return Image.open(io.BytesIO(data), formats=(*FORMATS - {"MPO"}, *_NAMED_FORMATS))
    except UnidentifiedImageError:
        if data[:4] in (b"II*\0", b"MM\0*"):
            detail = f"a TIFF of a kind that cannot be read; save it with 8 or 16 bits a channel. If it is {_RAW}"
            raise ImageError("unsupported_format", detail) from None
        raise ImageError(
            "not_an_image", f"the bytes are no photo of a known format; {_READABLE}, or remove the file"
        ) from None
    except Exception as error:  # as in decode()
        raise ImageError("truncated", f"the header cannot be read ({error}); restore the file from a backup") from None


def _refuse_unsupported(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if image.format not in FORMATS:
        raise ImageError("unsupported_format", f"{image.format}; {_READABLE}")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}×{height} pixels; the limit is {max_pixels / 1e6:.0f} megapixels")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{width}×{height} pixels; each side needs at least {MIN_SIDE}")
    if image.format == "TIFF" and _is_raw(image.tag_v2):  # type: ignore[attr-defined]
        raise ImageError("raw", _RAW)
    if image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated", "the file holds several frames; save the one you want as a photo")
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_depth", "32 bits a channel; save it with 8 or 16")
    if image.mode in ("LAB", "HSV"):
        raise ImageError("unsupported_mode", f"pixel layout {image.mode}; save it as RGB or grey")


def _is_raw(tags: Any) -> bool:
    # DNG, NEF, ARW and PEF are TIFFs: what Pillow would open is their sensor's mosaic or a thumbnail.
    is_thumbnail = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in tags
    return _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRICS or is_thumbnail


def _bit_depth(image: Image.Image, data: bytes) -> int:
    # Pillow opens deeper photos as 8-bit without a word, so the headers are asked.
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    if image.format == "AVIF":
        flags = data[data.find(b"av1C") + 6]  # ISO/IEC 14496-12 box of the AV1 specification: high_bitdepth, twelve_bit
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return int(image.info.get("bit_depth", 8))


def _arrays(image: Image.Image) -> tuple[np.ndarray, bool, bool]:
    """Pixels (H×W×4 uint8), whether the fourth channel is opacity, and whether the photo is grey; of any 8-bit mode."""
    if image.mode == "CMYK":
        return _from_inks(image), False, False
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":  # which cannot become RGBA directly
            image = image.convert("LA")
        return _packed(image if image.mode == "RGBA" else image.convert("RGBA")), True, is_grey
    return _packed(image if image.mode == "RGB" else image.convert("RGB")), False, is_grey


def _packed(image: Image.Image) -> np.ndarray:
    """The memory of an RGB or RGBA image as H×W×4 uint8, not a copy of it."""
    return np.asarray(pa.array(image).flatten()).reshape(image.height, image.width, 4)


def _to_image(packed: np.ndarray, mode: str) -> Image.Image:
    """H×W×3 or H×W×4 uint8 as an RGB or RGBA image."""
    if packed.shape[2] == 3:
        return Image.fromarray(packed)
    values = pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), 4)
    return Image.fromarrow(values, mode, (packed.shape[1], packed.shape[0]))


def _from_inks(image: Image.Image) -> np.ndarray:
    """sRGB pixels of a CMYK image: by its profile, or plainly where it has none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return np.asarray(image.convert("RGB"))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ImageError("bad_profile", f"the embedded colour profile cannot be used ({error})") from None
    return np.asarray(converted)


def _deep_arrays(image: Image.Image, data: bytes, depth: int, orientation: int) -> tuple[np.ndarray, bool, bool]:
    """As `_arrays`, H×W×3 or H×W×4 uint16, of more than 8 bits: Pillow has no such colour images, OpenCV and libheif do."""
    if image.mode == "CMYK" or "transparency" in image.info:
        raise ImageError("unsupported_mode", f"{depth} bits a channel and {image.mode}; save it as RGB or with 8 bits")
    if image.format == "HEIF":
        values = np.asarray(pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False))
        values = values | (values >> depth)  # it comes shifted up, so that white would miss 65535
        orientation = 1
    else:
        if image.format == "TIFF" and image.tag_v2.get(_PLANES) == _SEPARATE_PLANES:  # type: ignore[attr-defined]
            raise ImageError(
                "unsupported_depth", f"{depth} bits in separate planes; save it interleaved or with 8 bits"
            )
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None or decoded.dtype != np.uint16:
            raise ImageError("unsupported_depth", f"{depth} bits a channel; save it with 8 or 16")
        values = decoded if decoded.ndim == 2 else decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
        if image.format == "TIFF":
            orientation = 1  # as libheif, OpenCV turns these itself
            values = values | (values >> depth) if depth < 16 else values  # and shifts them up
            if image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # type: ignore[attr-defined]
                values = 65535 - values
        elif depth < 16:
            values = (values.astype(np.uint32) * 65535 // (2**depth - 1)).astype(np.uint16)
    values = _upright(values, orientation)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2), False, True
    return np.ascontiguousarray(values), values.shape[2] == 4, image.mode in ("LA", "I;16")


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """The array turned as EXIF orientation 1–8 asks."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _stored(values: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `_upright`."""
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values.swapaxes(0, 1) if orientation >= 5 else values


def _read_only(image: Image.Image, depth: int) -> ImageError | None:
    if image.format == "HEIF":
        return ImageError("unsupported_format", "HEIC is read, not written; convert it to JPEG or AVIF first")
    if image.mode == "CMYK":
        return ImageError("unsupported_mode", "CMYK: its inks would be lost; convert it to RGB first")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if _PHOTOSHOP_LAYERS in tags:
            return ImageError("unsupported_mode", "layers, which new pixels would not fit; save it without them")
        if depth == 8 and _ASSOCIATED in tuple(tags.get(_EXTRA_SAMPLES, ())):
            what = "opacity multiplied into the colours; save it with plain (unassociated) opacity"
            return ImageError("unsupported_mode", what)
    if depth > 8 and image.format not in ("PNG", "TIFF"):
        return ImageError("unsupported_depth", f"{depth} bits a channel would be cut to 8; save it with 8 bits")
    return None


def _coding(image: Image.Image, data: bytes) -> dict[str, Any]:
    """How the file's pixels are coded, for new ones to be coded alike."""
    if image.format in ("JPEG", "MPO"):
        # The source's own tables: no coarser than it was, and the file stays of its size.
        return {
            "qtables": image.quantization,  # type: ignore[attr-defined]
            "subsampling": max(JpegImagePlugin.get_sampling(image), 0),
            "progressive": bool(image.info.get("progressive")),
        }
    if image.format == "WEBP":
        return {"lossless": True} if _is_lossless_webp(data) else {"quality": 95}
    if image.format == "AVIF":
        flags = data[data.find(b"av1C") + 6]
        return {"quality": 95, "subsampling": {0x0C: "4:2:0", 0x08: "4:2:2"}.get(flags & 0x0C, "4:4:4")}
    if image.format == "TIFF":
        is_plain = image.tag_v2.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED  # type: ignore[attr-defined]
        return {"compression": None if is_plain else "adobe_deflate", "predictor": None if is_plain else True}
    return {}


def _is_lossless_webp(data: bytes) -> bool:
    place = 12
    while data[place : place + 4] not in (b"VP8 ", b"VP8L", b""):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return data.startswith(b"VP8L", place)


def _code(photo: Photo, stored: np.ndarray, quality: int | None) -> bytes:
    """The pixels as a file of the photo's format, without metadata."""
    if photo.format == "TIFF":
        return _tiff_bytes(photo, stored)
    if stored.dtype == np.uint16:
        values = (
            stored[..., 1] if photo.is_grey and not photo.has_alpha else stored[..., [2, 1, 0, 3][: stored.shape[2]]]
        )
        return bytes(
            cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
        )  # zlib's own default, as in 8 bits
    return _pillow_bytes(photo, stored, quality)


def _pillow_bytes(photo: Photo, stored: np.ndarray, quality: int | None, **metadata: Any) -> bytes:
    image = _to_image(stored, "RGBA" if photo.has_alpha else "RGB")
    if photo.is_grey:
        image = image.convert("LA" if photo.has_alpha else "L")
    options = dict(photo.coding)
    if quality is not None and photo.format != "PNG" and not options.get("lossless"):
        options.pop("qtables", None)
        options["quality"] = quality
    buffer = io.BytesIO()
    image.save(buffer, format=photo.format, **options, **metadata)
    return buffer.getvalue()


def _tiff_bytes(photo: Photo, stored: np.ndarray) -> bytes:
    values = stored if photo.has_alpha else stored[..., :3]
    if photo.is_grey:
        values = values[..., [1, 3]] if photo.has_alpha else values[..., 1]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(values),
        byteorder=">" if photo.original.startswith(b"MM") else "<",
        photometric="minisblack" if photo.is_grey else "rgb",
        planarconfig=None if values.ndim == 2 else "contig",
        extrasamples=["unassalpha"] if photo.has_alpha else None,
        rowsperstrip=max(1, 2**18 // values[0].nbytes),
        metadata=None,
        software=False,
        **photo.coding,
    )
    return buffer.getvalue()


def _stamped_info(photo: Photo, stamp: Stamp | None) -> dict[str, Any]:
    """What Pillow is to write into an AVIF: it has no container that could be taken over."""
    info = Image.open(io.BytesIO(photo.original)).info
    kept = {name: info[name] for name in ("exif", "icc_profile") if info.get(name)}
    xmp = info.get("xmp")
    return kept | ({"xmp": stamped(xmp, stamp)} if stamp else {"xmp": xmp} if xmp else {})


def _thumbnail(stored: np.ndarray, limit: int) -> bytes:
    """A JPEG of at most `limit` bytes for the EXIF block; empty if there is none so small."""
    scale = _THUMBNAIL / max(stored.shape[:2])
    size = [max(1, round(side * scale)) for side in stored.shape[1::-1]]
    small = to_8bit(cv2.resize(stored, size, interpolation=cv2.INTER_AREA))
    for quality in (90, 75, 50, 25):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(small[..., :3])).save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= limit:
            return buffer.getvalue()
    return b""
