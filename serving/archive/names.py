"""Converts file names to text that every format can hold, and back."""

from __future__ import annotations

import re


def to_text(name: str) -> str:
    r"""Convert a file's relative name to text. If some bytes are not UTF-8, they become \xff, and // precedes the name.

    No relative name begins with //, so two names never have the same text.
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return "//" + name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Convert the text of `to_text` back to the name."""
    if not text.startswith("//"):
        return text
    parts = re.sub(rb"\\(\\|x[0-9a-f]{2})", _unescaped, text[2:].encode())
    return parts.decode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])
