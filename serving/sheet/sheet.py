"""One HTML file that shows photos and tables, with every picture inside it: opens anywhere, needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence

import cv2
import numpy as np

from naturaltone.pipeline.photo.stored import encode_jpeg

_LONG_SIDE = 720
_COMPARED_LONG_SIDE = 960  # room to look closely; about 150 KB a picture
_COMPARED_QUALITY = 85

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .3rem .9rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
td:not(:first-child):last-child:not(.words *) { text-align: left; }
.row { display: flex; gap: .5rem; margin: 1rem 0 1.8rem; }
figure { margin: 0; flex: 1 1 0; min-width: 0; }
img { width: 100%; max-height: 26rem; object-fit: contain; object-position: left top; display: block; }
figcaption { font-size: .85rem; opacity: .75; }
code, pre { font: .9em/1.5 ui-monospace, monospace; } pre { overflow-x: auto; }
.compare > form { display: flex; flex-wrap: wrap; gap: .2rem 2rem; padding: .6rem 0; margin-bottom: 1rem;
  border-bottom: 1px solid var(--line); background: Canvas; position: sticky; top: 0; z-index: 2; }
.compare [hidden] { display: none !important; }
.compare fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 .9rem; align-items: center; }
.compare legend { float: left; font-weight: 600; margin-right: .9rem; padding: 0; }
.compare label { display: inline-flex; align-items: center; gap: .3rem; min-height: 2rem; cursor: pointer; }
.photo { margin-bottom: 2.2rem; --x: 50%; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .5rem; }
.panel img { max-height: none; }
.panel span { font-size: .85rem; opacity: .85; }
.photo > input { display: none; }
.sliding .photo { width: min(100%, calc(80vh * var(--ratio))); }
.sliding .panels { display: block; position: relative; aspect-ratio: var(--ratio); overflow: hidden; cursor: ew-resize;
  touch-action: pan-y; user-select: none; -webkit-user-select: none; }
.sliding .panel { display: none; position: absolute; inset: 0; }
.sliding .panel.left, .sliding .panel.right { display: block; }
.sliding .panel.left:not(.right) { z-index: 1; clip-path: inset(0 calc(100% - var(--x)) 0 0); }
.sliding .panel img { height: 100%; object-fit: fill; pointer-events: none; }
.sliding .panel span { position: absolute; bottom: .5rem; left: .5rem; padding: .1rem .55rem; border-radius: .3rem;
  background: rgb(0 0 0 / .65); color: white; opacity: 1; }
.sliding .panel.right:not(.left) span { left: auto; right: .5rem; }
.sliding .panels::after { content: ""; position: absolute; z-index: 1; top: 0; bottom: 0; left: calc(var(--x) - 1px);
  width: 2px; background: white; box-shadow: 0 0 0 1px rgb(0 0 0 / .5); pointer-events: none; }
.sliding .photo > input { display: block; width: 100%; height: 2.75rem; margin: 0; }
@media (max-width: 640px) {
  .row { flex-direction: column; } .compare > form { position: static; }
  table:not(.words) :is(td, th) { white-space: nowrap; padding: .3rem .5rem; }
  table:not(.words) :is(td, th):first-child { position: sticky; left: 0; background: Canvas; }
}
"""

# Without it the pictures stand side by side, each with its name.
_SCRIPT = """
(() => {
  const set = document.currentScript.parentElement, form = set.querySelector("form");
  const show = () => {
    const chosen = new FormData(form);
    set.classList.toggle("sliding", chosen.get("view") === "slider");
    for (const panel of set.querySelectorAll(".panel"))
      for (const side of ["left", "right"]) panel.classList.toggle(side, panel.dataset.stage === chosen.get(side));
    for (const field of form.querySelectorAll(".side")) field.hidden = chosen.get("view") !== "slider";
  };
  for (const photo of set.querySelectorAll(".photo")) {
    const panels = photo.querySelector(".panels"), range = photo.querySelector("input");
    const move = () => photo.style.setProperty("--x", range.value + "%");
    const follow = event => {
      if (!(event.buttons & 1) || !set.classList.contains("sliding")) return;
      const box = panels.getBoundingClientRect();
      range.value = 100 * (event.clientX - box.left) / box.width;
      move();
    };
    range.addEventListener("input", move);
    panels.addEventListener("pointerdown", event => { panels.setPointerCapture(event.pointerId); follow(event); });
    panels.addEventListener("pointermove", follow);
  }
  form.addEventListener("change", show);
  form.hidden = false;
  show();
})();
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


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = True,
    bold: Collection[tuple[int, int]] = (),
) -> str:
    """A table whose first column names the rows; `numbers` sets the others flush right. bold: cells by row and column."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(cell, bold=(index, column) in bold) for column, cell in enumerate(row))}</tr>"
        for index, row in enumerate(rows)
    )
    return f"<table{'' if numbers else ' class=words'}><tr>{head}</tr>{body}</table>"


def picture_row(pictures: Sequence[tuple[str, np.ndarray]]) -> str:
    """Captioned H×W×3 uint8 sRGB pictures side by side, shrunk to what a page shows."""
    return f'<div class="row">{"".join(_figure(caption, pixels) for caption, pixels in pictures)}</div>'


def comparison(
    labels: Mapping[str, str],
    photos: Iterable[tuple[str, str, Mapping[str, np.ndarray]]],
    *,
    left: str,
    right: str,
    side_by_side: bool = False,
) -> str:
    """Photos, each as a slider between two of its stages or with all of them side by side, as the reader chooses.

    labels: of the stages. photos: a caption, a note, and H×W×3 uint8 sRGB pictures of one size by stage. left, right,
    side_by_side: what is chosen first. The fingers, the mouse and the arrow keys move a slider.
    """
    views = {"slider": "slider", "all": "side by side"}
    fields = [
        _choice("view", "Show", views, "all" if side_by_side else "slider"),
        _choice("left", "Left", labels, left),
        _choice("right", "Right", labels, right),
    ]
    shown = "".join(_compared(labels, caption, note, pictures) for caption, note, pictures in photos)
    # A form of its own, so that two comparisons on a page are chosen apart.
    return (
        f'<section class="compare"><form hidden autocomplete="off">{"".join(fields)}</form>'
        f"{shown}<script>{_SCRIPT}</script></section>"
    )


def shrink(pixels: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 pixels as small as `comparison` shows them."""
    return _shrink(pixels, _COMPARED_LONG_SIDE)


def _cell(text: str, *, bold: bool) -> str:
    return f"<td><b>{html.escape(text)}</b></td>" if bold else f"<td>{html.escape(text)}</td>"


def _figure(caption: str, pixels: np.ndarray) -> str:
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="{_source(_shrink(pixels, _LONG_SIDE), quality=90)}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _choice(name: str, title: str, options: Mapping[str, str], chosen: str) -> str:
    radios = "".join(
        f'<label><input type="radio" name="{name}" value="{html.escape(value)}"{" checked" * (value == chosen)}>'
        f"{html.escape(label)}</label>"
        for value, label in options.items()
    )
    return (
        f"<fieldset{'' if name == 'view' else ' class=side'}><legend>{html.escape(title)}</legend>{radios}</fieldset>"
    )


def _compared(labels: Mapping[str, str], caption: str, note: str, pictures: Mapping[str, np.ndarray]) -> str:
    name = html.escape(caption)
    height, width = next(iter(pictures.values())).shape[:2]
    panels = "".join(
        f'<div class="panel" data-stage="{html.escape(stage)}">'
        f'<img alt="{name}: {html.escape(labels[stage])}" draggable="false" decoding="async" '
        f'src="{_source(shrink(pictures[stage]), quality=_COMPARED_QUALITY)}">'
        f"<span>{html.escape(labels[stage])}</span></div>"
        for stage in labels
        if stage in pictures
    )
    return (
        f'<figure class="photo" style="--ratio:{width / height:.4f}"><figcaption><b>{name}</b> {html.escape(note)}'
        f'</figcaption><div class="panels">{panels}</div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{name}: how much of the left picture is seen">'
        "</figure>"
    )


def _shrink(pixels: np.ndarray, long_side: int) -> np.ndarray:
    scale = min(1.0, long_side / max(pixels.shape[:2]))
    return pixels if scale == 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _source(pixels: np.ndarray, *, quality: int) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels, quality=quality)).decode()}"
