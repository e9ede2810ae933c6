"""Why a file was not enhanced or a request was refused: every reason, once, with what follows from it."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A stable word for reports, HTTP answers and scripts.

    meaning: the reason in a sentence. left_alone: nothing is wrong with the file, so it is left as it is; otherwise the file
    failed, and the command ends with exit code 1. lasts: only another file or another version of naturaltone can mend it, so
    the same file is not tried again. http_status: of a request that ends with it.
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
    HDR_GAIN_MAP = "hdr_gain_map", "It is an HDR photo, whose gain map fits its old pixels only.", True, True, 415
    MOTION_VIDEO = "motion_video", "It is a motion photo, with a video behind the picture.", True, True, 415
    OTHER_PICTURES = "other_pictures", "It holds depth, stereo or panorama pictures beside the photo.", True, True, 415
    RAW = "raw", "It is a camera's RAW file, not developed yet.", True, True, 415
    TOO_SMALL = "too_small", "It has less than 16 pixels a side.", True, True, 400
    UNSUPPORTED_DEPTH = "unsupported_depth", "It has more bits than could be written again.", True, True, 415
    UNSUPPORTED_FORMAT = "unsupported_format", "It is of a format that is not read, or not written.", True, True, 415
    UNSUPPORTED_MODE = "unsupported_mode", "Its pixel layout (CMYK, layers) would be lost.", True, True, 415
    # Files of an archive that are left as they are.
    NOT_A_PHOTO = "not_a_photo", "It is a video or another file, by its name.", True, True, 415
    NOT_FOLLOWED = "not_followed", "It is a link that leads out of the folder, or no file at all.", True, False, 404
    # Photos that are damaged, or larger than the limits.
    BAD_PROFILE = "bad_profile", "Its colour profile cannot be used.", False, True, 400
    NOT_AN_IMAGE = "not_an_image", "Its bytes are no photo, whatever its name says.", False, True, 400
    TOO_LARGE = "too_large", "It is above 200 megapixels or 1 GiB.", False, True, 413
    TRUNCATED = "truncated", "It is damaged or cut short.", False, True, 400
    UNWRITABLE = "unwritable", "Its metadata have no room for naturaltone's note.", False, True, 400
    # What went wrong with a good photo.
    CRASHES = "crashes", "Eight workers died while they enhanced it.", False, True, 500
    DISK_FULL = "disk_full", "There is no space left for the result.", False, False, 507
    INTERNAL = "internal", "A bug of naturaltone: please report it.", False, False, 500
    NAME_COLLISION = "name_collision", "The target's disk takes its name and another file's for one.", False, False, 409
    OUTPUT_EXISTS = "output_exists", "A file that naturaltone did not write has its place.", False, False, 409
    UNCOPIED = "uncopied", "It could not be copied (`--copy-others`).", False, False, 500
    UNPROCESSABLE = "unprocessable", "It could be read, but not prepared for training.", False, True, 500
    UNREADABLE = "unreadable", "It, or its folder, cannot be read.", False, False, 500
    UNSAFE_NAME = "unsafe_name", "Its key on the S3 server is no path below the source.", False, False, 400
    # Requests to the service.
    BAD_PARAMETER = "bad_parameter", "A parameter of the request is out of range, or no number.", False, False, 422
    METHOD_NOT_ALLOWED = "method_not_allowed", "The address exists, but not for this HTTP method.", False, False, 405
    NOT_FOUND = "not_found", "There is nothing at this address.", False, False, 404
