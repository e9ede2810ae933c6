"""The page that shows what a store holds: its numbers, and random inputs with their intermediates beside natural photos."""

from __future__ import annotations

from itertools import zip_longest

from naturaltone.pipeline.dataset import shards, summary
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.serving.sheet import sheet


def page(store: shards.Store, *, pairs: int, seed: int) -> str:
    """An HTML document with `pairs` random rows of input, intermediate and (another) natural photo."""
    inputs, natural = (summary.random_photos(store, role, pairs, seed=seed) for role in shards.ROLES)
    rows = []
    for left, right in zip_longest(inputs, natural):
        pictures = []
        if left:
            name = left["source"].rpartition("/")[2]
            pictures += [(f"input {name}", left["image"]), ("intermediate", left["intermediate"])]
        if right:
            pictures.append((f"natural {right['source'].rpartition('/')[2]}", right["image"]))
        rows.append(sheet.picture_row([(caption, decode_rgb(data)) for caption, data in pictures]))
    text = summary.format_summary(summary.summarize(store)).splitlines()
    return sheet.page("naturaltone store", [sheet.commands(text), sheet.heading("Random photos"), *rows])
