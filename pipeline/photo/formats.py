"""Tell by name and by first bytes which files are photos, and which photos are refused."""

from __future__ import annotations

import importlib.util

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", *({"HEIF"} if HAS_HEIF else ())}
HDR_CURVES = (16, 18)  # PQ and HLG, as ITU-T H.273 numbers them
SAMSUNG_VIDEO = b"MotionPhoto_Data"  # the record in a Samsung's trailer that says where the motion video lies
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".avif", *HEIF_SUFFIXES)
RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
# These are listed as photos, so that each is refused with a reason instead of skipped.
REFUSED_SUFFIXES = (*RAW_SUFFIXES, ".bmp", ".gif", ".jp2", ".jxl", ".psd")
NAMED_FORMATS = ("BMP", "GIF", "JPEG2000", "PSD")  # opened only to say what they are
READABLE = "use JPEG, PNG, TIFF, WebP or AVIF"
RAW = "a camera's RAW file; develop it to JPEG, TIFF or PNG with darktable or RawTherapee first"
HEIF = "HEIC; `pip install 'naturaltone[heif]'` adds what reads and writes it"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")
# Offset, the bytes at that offset, and the reason and detail with which such a file is refused.
SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW", Reason.RAW, RAW),
    (0, b"IIU\0", Reason.RAW, RAW),  # Panasonic
    (0, b"IIRO", Reason.RAW, RAW),  # Olympus
    (0, b"IIRS", Reason.RAW, RAW),
    (0, b"MMOR", Reason.RAW, RAW),
    (0, b"FOVb", Reason.RAW, RAW),  # Sigma
    (4, b"ftypcrx ", Reason.RAW, RAW),  # Canon CR3
    (8, b"CR\x02\0", Reason.RAW, RAW),  # Canon CR2, a TIFF
    *((4, b"ftyp" + brand, Reason.UNSUPPORTED_FORMAT, HEIF) for brand in HEIF_BRANDS),
    (0, b"\xff\x0a", Reason.UNSUPPORTED_FORMAT, f"JPEG XL; {READABLE}"),
    (0, b"\0\0\0\x0cJXL ", Reason.UNSUPPORTED_FORMAT, f"JPEG XL; {READABLE}"),
)


def refuse_raw(name: str) -> None:
    """Refuse a camera's RAW file by its name, before it is read."""
    if name.lower().endswith(RAW_SUFFIXES):
        raise ImageError(Reason.RAW, RAW)
