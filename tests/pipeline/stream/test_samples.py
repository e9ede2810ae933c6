"""A position's sample is cut from the stored photos as the plan says."""

from __future__ import annotations

import numpy as np

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import COLUMNS, read_samples


def test_input_and_intermediate_are_cut_and_mirrored_alike(numbered: shards.Store) -> None:
    samples = read_samples(make_plan(numbered, batch=4, crop=32, seed=3), np.arange(40))
    assert np.array_equal(samples["input"], samples["intermediate"])
    assert samples["input"].shape == (40, 32, 32, 3) and samples["input"].dtype == np.uint8


def test_crops_move_and_mirror(numbered: shards.Store) -> None:
    samples = read_samples(make_plan(numbered, batch=4, crop=32, seed=3), np.arange(80))["input"]
    rising = (samples[:, 0, -1, 1] > samples[:, 0, 0, 1]).mean()
    assert 0.3 < rising < 0.7, "half of the crops are mirrored"
    assert len({int(crop[0, :, 1].min()) // 3 for crop in samples}) > 10, "windows lie at many places"


def test_natural_photos_are_unpaired_with_inputs(numbered: shards.Store) -> None:
    samples = read_samples(make_plan(numbered, batch=4, crop=32, seed=3), np.arange(200))
    numbers = [(samples[name][..., 0].mean(axis=(1, 2)) / 5).round() for name in ("input", "natural")]
    pairs = set(zip(*numbers, strict=True))
    assert len(pairs) > 150


def test_a_position_gives_the_same_sample_alone_and_in_company(numbered: shards.Store) -> None:
    plan = make_plan(numbered, batch=4, crop=32, seed=3)
    together = read_samples(plan, np.arange(20))
    alone = read_samples(plan, np.array([13]))
    for name in COLUMNS:
        assert np.array_equal(together[name][13], alone[name][0])


def test_a_photo_smaller_than_the_crop_is_enlarged(numbered: shards.Store) -> None:
    assert read_samples(make_plan(numbered, batch=4, crop=64, seed=3), np.arange(4))["natural"].shape[1:] == (64, 64, 3)


def test_streamed_intermediates_are_the_cached_ones(stores: dict[str, shards.Store]) -> None:
    group = stores["stream"].select("input").to_pylist()[0]
    stored = shards.read_row_group(stores["stream"].uri, group["file"], group["row_group"], ["intermediate"])
    assert stored["intermediate"].null_count == stored.num_rows
    plans = [
        make_plan(stores["cached"], batch=4, crop=32, seed=1),
        make_plan(stores["stream"], batch=4, crop=32, seed=1),
        make_plan(stores["cached"], batch=4, crop=32, seed=1, intermediates="stream"),
    ]
    samples = [read_samples(plan, np.arange(60)) for plan in plans]
    for name in COLUMNS:
        assert np.array_equal(samples[0][name], samples[1][name]) and np.array_equal(samples[0][name], samples[2][name])
