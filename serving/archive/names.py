"""File names as text that every format can hold, and back."""

from __future__ import annotations

import re


def to_text(name: str) -> str:
    r"""A file's name as text. Bytes that are no UTF-8 become \xff, and // before the name marks that.

    No file's relative name begins with //, so no two names have the same text.
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return "//" + name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """The name that `to_text` made the text of."""
    if not text.startswith("//"):
        return text
    parts = re.sub(rb"\\(\\|x[0-9a-f]{2})", _unescaped, text[2:].encode())
    return parts.decode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])
