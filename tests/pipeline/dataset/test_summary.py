"""A store says and shows what it holds."""

from __future__ import annotations

import pytest

from naturaltone.pipeline.dataset import shards, summary
from naturaltone.serving.sheet import store as store_page

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_store_says_and_shows_what_it_holds(stores: dict[str, shards.Store]) -> None:
    for store in stores.values():
        numbers = summary.summarize(store)
        for role in shards.ROLES:
            assert sum(split["photos"] for split in numbers["photos"][role].values()) == 24
        assert "local_laplacian/1-" in summary.format_summary(numbers)
        page = store_page.store_page(store, pairs=2, seed=0)
        assert page.count("<img") == 6 and page != store_page.store_page(store, pairs=2, seed=1)
