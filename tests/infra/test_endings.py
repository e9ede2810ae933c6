"""A failed command ends with one line; only a bug in naturaltone ends with a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.infra.commands import store
from naturaltone.infra.log import quiet_others
from naturaltone.pipeline.errors import RunFailed, UserError

Ended = tuple[int, str]


@pytest.fixture
def ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], Ended]:
    """`ended(work)`: runs `work` as a command; returns its exit code and stderr."""

    def run(work: Callable[[], object]) -> Ended:
        monkeypatch.setattr(store, "run", lambda options: work())
        return cli.main(["store", "unused"]), capsys.readouterr().err

    return run


def raising(error: Exception) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


def test_a_users_mistake_is_one_line(ended) -> None:  # type: ignore[no-untyped-def]
    assert ended(raising(UserError("--size 0: use 1"))) == (exit_codes.WRONG_USAGE, "naturaltone: --size 0: use 1\n")


@pytest.mark.parametrize("error", [RunFailed("run 'a' stopped"), OSError("no space left"), ConnectionError("reset")])
def test_a_failed_run_is_one_line_that_names_the_log_with_the_cause(ended, error: Exception) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        try:
            raise ZeroDivisionError("the first cause")
        except ZeroDivisionError as first:
            raise error from first

    code, line = ended(work)
    match = re.fullmatch(rf"naturaltone: {re.escape(str(error))} \(details: (.+\.log)\)\n", line)
    assert code == exit_codes.RUN_FAILED and match, line
    assert "the first cause" in Path(match[1]).read_text()


@pytest.mark.parametrize(
    "error", [ValueError("hours into a run"), pa.ArrowInvalid("no Parquet"), KeyError("x"), RuntimeError()]
)
def test_a_bug_shows_its_traceback_and_is_not_wrong_usage(ended, error: Exception) -> None:  # type: ignore[no-untyped-def]
    code, text = ended(raising(error))
    assert code == exit_codes.RUN_FAILED and text.startswith("Traceback") and "please report it" in text
    assert f"{type(error).__name__}" in text


def by_a_task(work: Callable[[], object]) -> object:
    return ray.get(ray.remote(work).remote())


def by_ray_data(work: Callable[[], object]) -> object:
    def fail(batch: dict[str, object]) -> dict[str, object]:
        work()
        return batch

    dataset = ray.data.from_items([1]).map_batches(fail)
    quiet_others()  # as every command that starts Ray does
    return dataset.materialize()


@pytest.mark.parametrize("run", [by_a_task, by_ray_data])
@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UserError("a store made otherwise"), exit_codes.WRONG_USAGE, 1),
        (OSError("the server failed 6 times"), exit_codes.RUN_FAILED, 1),
        (ZeroDivisionError("a bug"), exit_codes.RUN_FAILED, None),
    ],
)
def test_an_exception_in_ray_ends_the_command_like_one_of_the_command(  # type: ignore[no-untyped-def]
    ray_cluster: None, ended, run: Callable[..., object], error: Exception, code: int, lines: int | None
) -> None:
    ended_with, text = ended(lambda: run(raising(error)))
    assert ended_with == code and str(error) in text
    assert (text.count("\n") == lines) if lines else "Traceback" in text


def test_a_dead_worker_is_a_failed_run(ray_cluster: None, ended) -> None:  # type: ignore[no-untyped-def]
    @ray.remote(max_retries=0)
    def task() -> None:
        import os

        os._exit(1)

    code, text = ended(lambda: ray.get(task.remote()))
    assert code == exit_codes.RUN_FAILED and text.count("\n") == 1 and "details: " in text
