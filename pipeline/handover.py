"""Takes blocks from the tasks of a Ray dataset as soon as each block is made, and gets the first one early."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray

log = logging.getLogger(__name__)

_ASKING_SECONDS = 0.02


def hand_over(dataset: ray.data.Dataset, *, waiting: int) -> Iterator[Any]:
    """Yield the blocks that the tasks of `dataset` make, in the order in which they arrive.

    waiting: a task pauses when this many of its blocks have not been taken yet. By default Ray Data collects a task's rows
    into blocks of 128 MiB, and pauses a task with two blocks that have not been taken.
    """
    import ray

    context = dataset.context
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1
    with _hurry(context, waiting) as hurries:
        if not hurries:
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=waiting)
            return
        # Bundles, not batches: batches pass through four more threads, which delays the first one.
        for bundle in dataset.iter_internal_ref_bundles():
            hurries.close()
            yield from ray.get(list(bundle.block_refs))


@contextlib.contextmanager
def _hurry(context: ray.data.DataContext, waiting: int) -> Iterator[contextlib.ExitStack | None]:
    """Make Ray Data 2.60 start at once and keep `waiting` blocks a task. Only this function touches Ray's private fields.

    Yields a stack: close it when the first block has arrived, to restore Ray's own interval. Yields None if this version of
    Ray lacks one of the fields.
    """
    import ray.data

    try:
        from ray.data._internal.execution.resource_manager import ResourceManager

        asking_seconds = ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S
        context._max_num_blocks_in_streaming_gen_buffer  # noqa: B018 - raises if it is missing
        ray.data.Dataset.iter_internal_ref_bundles  # noqa: B018
    except (ImportError, AttributeError) as error:
        log.warning(
            "this version of Ray Data may deliver blocks later than 2.60, which naturaltone was measured with (%s)",
            error,
        )
        yield None
        return
    context._max_num_blocks_in_streaming_gen_buffer = waiting
    # Ray Data asks which resources it may use, and looks for the answer after this interval. Until then it runs one task.
    ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = _ASKING_SECONDS

    def calm_down() -> None:
        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = asking_seconds

    with contextlib.ExitStack() as hurries:
        hurries.callback(calm_down)
        yield hurries
