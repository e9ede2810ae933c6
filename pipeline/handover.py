"""What the tasks of a Ray dataset make, on the driver as soon as they hand it over, and the first of it soon."""

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
    """The blocks that the tasks of `dataset` yield, in the order of their arrival; each task may have `waiting` ready.

    Left alone, Ray Data gathers a task's rows up to 128 MiB, and lets the task go on only after two of its blocks have been
    taken.
    """
    import ray

    context = dataset.context
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1
    with _hurry(context, waiting) as hurries:
        if not hurries:
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=waiting)
            return
        # Bundles, not batches: those pass through four threads more, and the first one is late.
        for bundle in dataset.iter_internal_ref_bundles():
            hurries.close()
            yield from ray.get(list(bundle.block_refs))


@contextlib.contextmanager
def _hurry(context: ray.data.DataContext, waiting: int) -> Iterator[contextlib.ExitStack | None]:
    """Have Ray Data 2.60 start at once and keep `waiting` blocks a task; the one place that touches its private fields.

    Gives what ends the hurry when the first block is there; None where this version of Ray lacks one of the fields.
    """
    import ray.data

    try:
        from ray.data._internal.execution.resource_manager import ResourceManager

        asking_seconds = ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S
        context._max_num_blocks_in_streaming_gen_buffer  # noqa: B018 - whether it is there
        ray.data.Dataset.iter_internal_ref_bundles  # noqa: B018
    except (ImportError, AttributeError) as error:
        log.warning(
            "this version of Ray Data hands over later than 2.60, with which naturaltone was measured (%s)", error
        )
        yield None
        return
    context._max_num_blocks_in_streaming_gen_buffer = waiting
    # Ray Data asks what it may use, runs a single task without the answer, and looks for it after this interval.
    ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = _ASKING_SECONDS

    def calm_down() -> None:
        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = asking_seconds

    with contextlib.ExitStack() as hurries:
        hurries.callback(calm_down)
        yield hurries
