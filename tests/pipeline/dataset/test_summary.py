"""A store's summary and page show what the store holds."""

from __future__ import annotations

import pytest

from naturaltone.pipeline.dataset import shards, summary
from naturaltone.serving.sheet import store as store_page

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_summary_counts_all_photos_and_the_page_shows_random_ones(stores: dict[str, shards.Store]) -> None:
    for store in stores.values():
        numbers = summary.summarize(store)
        for role in shards.ROLES:
            assert sum(split["photos"] for split in numbers["photos"][role].values()) == 24
        assert "keyed_laplacian/1-" in summary.format_summary(numbers)
        page = store_page.store_page(store, pairs=2, seed=0)
        assert page.count("<img") == 6 and page != store_page.store_page(store, pairs=2, seed=1)
