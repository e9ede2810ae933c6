"""What a failed Ray task or MLflow call says in one line, out of the stacks and advice around it."""

from __future__ import annotations

import re

_OWN_LINE = re.compile(r"(?!ray\.)[\w.]*(Error|Diverged|Exception)\b")  # Ray's own wrap those of the task


def cause(error: BaseException) -> str:
    """The line of the error that names the exception which began it, or the last one that there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ([line for line in lines if _OWN_LINE.match(line)] or lines or [type(error).__name__])[-1]
