"""The page of a store: its numbers, and random inputs with their intermediates beside natural photos."""

from __future__ import annotations

from itertools import zip_longest

from naturaltone.pipeline.dataset import shards, summary
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.serving.sheet.parts import Figure
from naturaltone.serving.sheet.pictures import Inside
from naturaltone.serving.sheet.render import render


def store_page(store: shards.Store, *, pairs: int, seed: int) -> str:
    """Make an HTML page with `pairs` random rows: an input, its intermediate and an unrelated natural photo."""
    pictures = Inside(long_side=720, quality=90)
    inputs, natural = (summary.random_photos(store, role, pairs, seed=seed) for role in shards.ROLES)
    rows = []
    for left, right in zip_longest(inputs, natural):
        named = []
        if left:
            name = left["source"].rpartition("/")[2]
            named += [(f"input {name}", left["image"]), ("intermediate", left["intermediate"])]
        if right:
            named.append((f"natural {right['source'].rpartition('/')[2]}", right["image"]))
        rows.append([Figure(caption, pictures.add(decode_rgb(data))[0]) for caption, data in named])
    text = summary.format_summary(summary.summarize(store))
    return render("store.html", title="naturaltone store", summary=text, rows=rows)
