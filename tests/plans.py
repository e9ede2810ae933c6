"""Makes plans over row groups that do not exist."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from naturaltone.pipeline.stream.plan import RowGroups, StreamPlan


def make_row_groups(sizes: list[int], run: int) -> RowGroups:
    return RowGroups(
        files=pa.array(["file"] * len(sizes)).dictionary_encode(),
        indices=np.arange(len(sizes)),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        run=run,
    )


def plan_of(inputs: int, natural: int, *, run: int = 16, block: int = 16, batch: int = 8, seed: int = 1) -> StreamPlan:
    return StreamPlan(
        store="unused",
        input=make_row_groups([inputs], run),
        natural=make_row_groups([natural], run),
        batch=batch,
        crop=32,
        seed=seed,
        block=block,
    )
