"""Every reason why a file is not enhanced or a request is refused, with its consequences."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A stable word for reports, HTTP answers and scripts.

    meaning: the reason in a sentence. left_alone: nothing is wrong with the file, so it is left as it is; otherwise the file
    failed, and the command ends with exit code 1. lasts: only another file or another version of naturaltone would help, so
    the same file is not tried again. http_status: the status of a request that ends for this reason.
    """

    meaning: str
    left_alone: bool
    lasts: bool
    http_status: int

    def __new__(cls, word: str, meaning: str, left_alone: bool, lasts: bool, http_status: int) -> Reason:
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.meaning, reason.left_alone, reason.lasts, reason.http_status = meaning, left_alone, lasts, http_status
        return reason

    # Photos that are left as they are.
    ALREADY_ENHANCED = "already_enhanced", "It carries naturaltone's note, so it is enhanced already.", True, True, 409
    ANIMATED = "animated", "It holds several frames or pages.", True, True, 415
    GRAPHIC = "graphic", "It is a screenshot or a drawing (only with `--photos-only`).", True, True, 415
    HDR_GAIN_MAP = (
        "hdr_gain_map",
        "It is an HDR photo with a gain map (only with `--hdr skip`, and AVIFs).",
        True,
        True,
        415,
    )
    HDR_STILL = (
        "hdr_still",
        "Its pixels are made for HDR screens, by PQ, HLG or a gain map that makes the SDR picture.",
        True,
        True,
        415,
    )
    MOTION_VIDEO = "motion_video", "It is a motion photo, with a video (only with `--hdr skip`).", True, True, 415
    OTHER_PICTURES = (
        "other_pictures",
        "It also holds depth, stereo or panorama pictures (only with `--hdr skip`, and AVIFs).",
        True,
        True,
        415,
    )
    RAW = "raw", "It is a camera's RAW file, not developed yet.", True, True, 415
    TOO_SMALL = "too_small", "One of its sides is shorter than 16 pixels.", True, True, 400
    UNSUPPORTED_DEPTH = (
        "unsupported_depth",
        "It has more bits a channel than naturaltone can write, or signed or floating-point values.",
        True,
        True,
        415,
    )
    UNSUPPORTED_FORMAT = "unsupported_format", "Its format cannot be read, or cannot be written.", True, True, 415
    UNSUPPORTED_MODE = "unsupported_mode", "Its pixel layout (CMYK, layers) would be lost.", True, True, 415
    # Files of an archive that are left as they are.
    NOT_A_PHOTO = "not_a_photo", "By its name, it is a video or another file that belongs to no photo.", True, True, 415
    NOT_FOLLOWED = (
        "not_followed",
        "It is a link out of the folder or to a folder above it, or a pipe, socket or device.",
        True,
        False,
        404,
    )
    # Photos that are damaged, or larger than the limits.
    BAD_PROFILE = "bad_profile", "Its colour profile cannot be used.", False, True, 400
    NOT_AN_IMAGE = "not_an_image", "Its content is not a photo, whatever its name says.", False, True, 400
    TOO_LARGE = "too_large", "It is larger than 200 megapixels or 1 GiB.", False, True, 413
    TRUNCATED = "truncated", "It is damaged or cut short.", False, True, 400
    UNWRITABLE = "unwritable", "Its metadata have no room for naturaltone's note.", False, True, 400
    # What went wrong with a good photo.
    CRASHES = "crashes", "Eight workers died while they enhanced it.", False, True, 500
    DISK_FULL = "disk_full", "There is no space left for the result.", False, False, 507
    INTERNAL = "internal", "This is a bug in naturaltone: please report it.", False, False, 500
    NAME_COLLISION = (
        "name_collision",
        "The target's disk cannot tell its name from another file's, or `--heic` would give it that name.",
        False,
        False,
        409,
    )
    OUTPUT_EXISTS = (
        "output_exists",
        "The target has a file of this name that naturaltone did not write.",
        False,
        False,
        409,
    )
    UNCOPIED = "uncopied", "It could not be copied (`--copy-others`).", False, False, 500
    UNPROCESSABLE = "unprocessable", "It can be read, but not prepared for training.", False, True, 500
    UNREADABLE = "unreadable", "The file or its folder cannot be read.", False, False, 500
    UNSAFE_NAME = "unsafe_name", "Its key on the S3 server is not a path below the source.", False, False, 400
    # Requests to the service.
    BAD_PARAMETER = (
        "bad_parameter",
        "A parameter of the request is unknown, out of range, or of the wrong type.",
        False,
        False,
        422,
    )
    METHOD_NOT_ALLOWED = "method_not_allowed", "The address exists, but not for this HTTP method.", False, False, 405
    NO_MODEL = "no_model", "The service has no model to enhance with yet.", False, False, 503
    NOT_FOUND = "not_found", "There is nothing at this address.", False, False, 404
    OVERLOADED = "overloaded", "The service has as many photos as it can hold.", False, False, 503
    RATE_LIMITED = "rate_limited", "This API key sends more requests a minute than it may.", False, False, 429
    TIMED_OUT = "timed_out", "The photo arrived too slowly, or took too long to enhance.", False, False, 408
    UNAUTHORIZED = "unauthorized", "The request has no valid API key.", False, False, 401
    WORKER_LOST = "worker_lost", "The process that enhanced the photo died. Send the photo again.", False, False, 503
