"""One HTML file that shows photos and tables, with every picture inside it: opens anywhere, needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from pipeline import images

_LONG_SIDE = 720

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .3rem .9rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.row { display: flex; gap: .5rem; margin: 1rem 0 1.8rem; }
figure { margin: 0; flex: 1 1 0; min-width: 0; }
img { width: 100%; max-height: 26rem; object-fit: contain; object-position: left top; display: block; }
figcaption { font-size: .85rem; opacity: .75; }
code, pre { font: .9em/1.5 ui-monospace, monospace; } pre { overflow-x: auto; }
@media (max-width: 640px) { .row { flex-direction: column; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document of `parts`, which are HTML already."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def commands(lines: Iterable[str]) -> str:
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A table whose first column names the rows; `numbers` sets the others flush right."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table{'' if numbers else ' class=words'}><tr>{head}</tr>{body}</table>"


def picture_row(pictures: Sequence[tuple[str, np.ndarray]]) -> str:
    """Captioned H×W×3 uint8 sRGB pictures side by side, shrunk to what a page shows."""
    return f'<div class="row">{"".join(_figure(caption, pixels) for caption, pixels in pictures)}</div>'


def _figure(caption: str, pixels: np.ndarray) -> str:
    scale = min(1.0, _LONG_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = base64.b64encode(images.encode_jpeg(small, quality=90)).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
