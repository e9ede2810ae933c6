"""How a command that did not succeed ends: a line for people, an exit code, and all the rest in the log file."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

from naturaltone.infra.exit_codes import RUN_FAILED, WRONG_USAGE
from naturaltone.pipeline.errors import RunFailed, UserError, cause

log = logging.getLogger(__name__)


def end_with(error: Exception, log_file: Path | None) -> int:
    """Say what ended the command, and return its exit code.

    A user's mistake and a failed run are one line each. Anything else is a bug of naturaltone, so the traceback is shown.
    """
    begun_by = _begun_by(error)
    if isinstance(begun_by, UserError):
        print(f"naturaltone: {begun_by}", file=sys.stderr)
        return WRONG_USAGE
    log.info("the command failed", exc_info=error)
    # The system, a server or the cluster failed: none of these are bugs.
    if isinstance(begun_by, RunFailed | OSError) or (begun_by is error and _is_of_ray(error)):
        text = cause(error) if _is_of_ray(error) else str(begun_by)
        print(f"naturaltone: {text} (details: {log_file})", file=sys.stderr)
        return RUN_FAILED
    traceback.print_exception(error)
    print("naturaltone: this is a bug of naturaltone; please report it with the lines above", file=sys.stderr)
    return RUN_FAILED


def _begun_by(error: BaseException) -> BaseException:
    """The exception that a failed Ray task or a chain of Ray's own exceptions began with."""
    while _is_of_ray(error):
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    return error


def _is_of_ray(error: BaseException) -> bool:
    # By name: Ray makes classes of its own at run time that are also of the class of the task's exception.
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)
