"""The set of digests answers like a set in memory, whatever part of it lies in files."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.pipeline.dataset import digests
from naturaltone.pipeline.dataset.digests import DigestSet

# Few different digests, so that many repeat, and neighbours that only the last byte tells apart. NumPy drops NULs at the end.
DIGESTS = st.builds(
    lambda first, last: bytes([first]) + bytes(14) + bytes([last]),
    st.sampled_from([0, 1, 127, 128, 255]),
    st.integers(0, 40),
)
ADDED = st.lists(st.lists(DIGESTS, max_size=60), max_size=8)


def array(values: list[bytes]) -> np.ndarray:
    return np.array(values, "S16")


@given(added=ADDED, wanted=st.lists(DIGESTS, max_size=60), merged=st.booleans())
@settings(max_examples=60)
def test_no_new_file_is_taken_for_a_known_one_and_no_known_file_for_a_new_one(
    added: list[list[bytes]], wanted: list[bytes], merged: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in {"_RECENT": 20, "_MOST_RUNS": 3, "_BLOCK": 4, "_LOOKED_UP": 7}.items():
            patch.setattr(digests, name, value)
        known, expected = DigestSet(Path(folder)), set()
        for batch in added:
            known.add(array(batch))
            expected |= set(batch)
            if merged:
                known.merge()
            assert known.has(array(wanted)).tolist() == [digest in expected for digest in wanted]
            assert len(known.recent) < 20 and len(known.runs) <= (1 if merged else 3)
            assert len(list(Path(folder).iterdir())) == len(known.runs), "merged files are removed"


def test_random_digests_are_found_at_the_real_sizes_and_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_RECENT", 2**14)
    monkeypatch.setattr(digests, "_MOST_RUNS", 4)
    random = np.random.default_rng(5)
    held, others = (np.frombuffer(random.bytes(16 * 100_001), "S16") for _ in range(2))
    known = DigestSet(tmp_path)
    for start in range(0, len(held), 10_000):
        known.add(held[start : start + 10_000])
    assert known.runs and known.has(held).all() and not known.has(others).any()
    known.merge()
    assert len(known.runs) == 1
    assert known.has(held).all() and not known.has(others).any()
    [run] = pickle.loads(pickle.dumps(known.runs))
    assert run.has(held).sum() + len(known.recent) == len(held)
    assert run.starts[-1] == run.path.stat().st_size / 16
