"""A permutation's every number is computed by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.stream.permute import permute


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permute_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, np.uint64(key))) == list(range(size))


@given(size=st.integers(2, 10**12), key=st.integers(0, 2**63))
def test_permute_computes_single_indices_of_a_huge_range(size: int, key: int) -> None:
    indices = np.array([0, size // 2, size - 1])
    permuted = permute(indices, size, np.uint64(key))
    assert np.array_equal(
        permuted, np.concatenate([permute(indices[i : i + 1], size, np.uint64(key)) for i in range(3)])
    )
    assert (permuted >= 0).all() and (permuted < size).all() and len(set(permuted)) == len(set(indices))
