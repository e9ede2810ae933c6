"""What can end a command besides its success: a mistake of the user, a run that failed, or else a bug of ours."""

from __future__ import annotations

import re

_OWN_LINE = re.compile(r"(?!ray\.)[\w.]*(Error|Diverged|Exception)\b")  # Ray's own lines wrap those of the task


class UserError(ValueError):
    """A mistake of the user, found before any work. The message names the thing, the value and the remedy in one line."""


class RunFailed(RuntimeError):
    """The run itself failed, through no bug of ours. The same command goes on where it was."""


def cause(error: BaseException) -> str:
    """What a failed Ray task or MLflow call says in one line, without the stacks and advice around it.

    The line is the one that names the exception which began it, or the last one if none does.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ([line for line in lines if _OWN_LINE.match(line)] or lines or [type(error).__name__])[-1]
