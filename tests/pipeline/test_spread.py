"""The picked items are at even distances."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.spread import spread


@given(size=st.integers(0, 500), count=st.integers(1, 50))
def test_picked_items_are_distinct_in_order_and_at_even_distances(size: int, count: int) -> None:
    chosen = spread(range(size), count)
    assert len(chosen) == min(size, count) and chosen == sorted(set(chosen))
    gaps = [later - earlier for earlier, later in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
