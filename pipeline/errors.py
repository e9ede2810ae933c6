"""The errors that end a command: a user's mistake, or a run that failed."""

from __future__ import annotations

import re

# A line that names an exception. Ray's own exceptions do not count: they only wrap the task's.
_OWN_LINE = re.compile(r"(?!ray\.)[\w.]*(Error|Diverged|Exception)\b")


class UserError(ValueError):
    """A user's mistake, found before any work starts. The message names the thing, the value and the remedy in one line."""


class RunFailed(RuntimeError):
    """The run failed, but not because of a bug of naturaltone. The same command continues where the run stopped."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message: Ray Data appends lines of its own to the messages of its tasks."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def cause(error: BaseException) -> str:
    """The one line of a failed Ray task's or MLflow call's message that says what went wrong.

    It is the last line that names an exception, or the last line if none does: stack traces and advice are left out.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ([line for line in lines if _OWN_LINE.match(line)] or lines or [type(error).__name__])[-1]
