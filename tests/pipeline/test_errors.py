"""`cause` finds the one line of a failed task's message that says what went wrong."""

from __future__ import annotations

import pytest

from naturaltone.pipeline.errors import RunFailed, UserError, cause

_RAYS = """ray.exceptions.RayTaskError(ValueError): ray::worker() (pid=1, ip=127.0.0.1)
  File "a.py", line 3, in work
    raise ValueError("crop=7: must be a multiple of 16")
ValueError: crop=7: must be a multiple of 16"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (_RAYS, "ValueError: crop=7: must be a multiple of 16"),
        ("one line", "one line"),
        ("first\n\nlast\n", "last"),
        ("", "RuntimeError"),
        (
            "naturaltone.training.step.TrainingDiverged: step 3\nadvice",
            "naturaltone.training.step.TrainingDiverged: step 3",
        ),
    ],
)
def test_the_line_that_names_the_exception_is_found(text: str, line: str) -> None:
    assert cause(RuntimeError(text)) == line


def test_a_users_mistake_is_a_value_error_and_a_failed_run_is_not() -> None:
    assert issubclass(UserError, ValueError) and not issubclass(RunFailed, ValueError)
