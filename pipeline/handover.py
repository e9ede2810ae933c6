"""What the tasks of a Ray dataset make, on the driver as soon as they hand it over, and the first of it soon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray


def blocks(dataset: ray.data.Dataset, *, waiting: int) -> Iterator[Any]:
    """The blocks that the tasks of `dataset` yield, in the order of their arrival; each task may have `waiting` ready.

    Ray Data would gather a task's rows up to 128 MiB, and let it go on only after two of its blocks have been taken.
    """
    import ray
    from ray.data._internal.execution.resource_manager import ResourceManager

    context = dataset.context
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1
    context._max_num_blocks_in_streaming_gen_buffer = waiting
    # Ray Data 2.60 asks what it may use, runs a single task without the answer, and looks for it after this interval.
    asking_seconds = ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S
    ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = 0.02
    # Bundles, not batches: those pass through four threads more, and the first one is late.
    try:
        for bundle in dataset.iter_internal_ref_bundles():
            ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = asking_seconds
            yield from ray.get(list(bundle.block_refs))
    finally:
        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = asking_seconds
