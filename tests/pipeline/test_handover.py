"""Blocks arrive as soon as they are made. If Ray lacks the private fields for that, they still arrive, but later."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray

from naturaltone.pipeline import handover

pytestmark = pytest.mark.usefixtures("ray_cluster")


def blocks_of(dataset: ray.data.Dataset) -> list[int]:
    return [number for block in handover.hand_over(dataset, waiting=4) for number in pa.table(block)["n"].to_pylist()]


def slowly(rows: pa.Table) -> Iterator[pa.Table]:
    for number in rows["n"].to_pylist():
        yield pa.table({"n": [number]})
        time.sleep(0.3)


def test_this_version_of_ray_has_the_private_fields(caplog: pytest.LogCaptureFixture) -> None:
    """If a new version of Ray fails this test, measure `bench stream` and `bench archive` again."""
    with handover._hurry(ray.data.DataContext.get_current().copy(), 4) as hurries:
        assert hurries is not None
    assert not caplog.records


def test_the_first_block_does_not_wait_for_the_last() -> None:
    dataset = ray.data.from_arrow([pa.table({"n": list(range(20))})]).map_batches(
        slowly, batch_size=None, batch_format="pyarrow"
    )
    blocks = handover.hand_over(dataset, waiting=4)
    next(blocks)
    started = time.monotonic()
    assert len(list(blocks)) == 19
    assert time.monotonic() - started > 2, "most blocks were not made yet when the first one arrived"


def test_without_rays_private_fields_no_block_is_lost_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.data._internal.execution.resource_manager import ResourceManager

    monkeypatch.delattr(ResourceManager, "GLOBAL_LIMITS_UPDATE_INTERVAL_S")
    with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patched:
        # Ray itself needs the field while it runs.
        patched.setattr(handover, "_hurry", _without(handover._hurry, ResourceManager))
        dataset = ray.data.from_arrow([pa.table({"n": [1, 2, 3]}), pa.table({"n": [4]})])
        assert sorted(blocks_of(dataset)) == [1, 2, 3, 4]
    assert caplog.text.count("may deliver blocks later than 2.60") == 1


def _without(hurry, manager):  # type: ignore[no-untyped-def]
    """`_hurry` when the field is missing. Afterwards Ray gets the field that it needs."""
    import contextlib

    @contextlib.contextmanager
    def wrapped(context, waiting):  # type: ignore[no-untyped-def]
        with hurry(context, waiting) as hurries:
            manager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = 1
            yield hurries

    return wrapped
