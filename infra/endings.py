"""Ends a failed command: one line for the user, an exit code, and the details in the log file."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

from naturaltone.infra.exit_codes import RUN_FAILED, WRONG_USAGE
from naturaltone.pipeline.errors import RunFailed, UserError, cause, first_line

log = logging.getLogger(__name__)


def end_with(error: Exception, log_file: Path | None) -> int:
    """Print why the command failed, and return its exit code.

    A mistake of the user (`UserError`) and a failed run (`RunFailed`, `OSError`, an error of Ray) get one line. Any other
    exception is a bug in naturaltone and gets its traceback.
    """
    begun_by = _begun_by(error)
    if isinstance(begun_by, UserError):
        print(f"naturaltone: {first_line(begun_by)}", file=sys.stderr)
        return WRONG_USAGE
    log.info("the command failed", exc_info=error)
    # The system, a server or the cluster failed: no bug in naturaltone.
    if isinstance(begun_by, RunFailed | OSError) or (begun_by is error and _is_of_ray(error)):
        text = cause(error) if _is_of_ray(error) else first_line(begun_by)
        print(f"naturaltone: {text}{f' (details: {log_file})' if log_file else ''}", file=sys.stderr)
        return RUN_FAILED
    traceback.print_exception(error)
    print("naturaltone: this is a bug in naturaltone; please report it with the lines above", file=sys.stderr)
    return RUN_FAILED


def _begun_by(error: BaseException) -> BaseException:
    """The first cause of an exception of Ray: unwraps them until one is not of Ray, or has no cause."""
    while _is_of_ray(error):
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    return error


def _is_of_ray(error: BaseException) -> bool:
    # By module name: at run time, Ray makes classes that inherit from both its own and the task's exception.
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)
