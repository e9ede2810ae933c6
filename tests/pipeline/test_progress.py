"""Without a terminal, progress is a line every few seconds, with a rate as soon as there is one."""

from __future__ import annotations

import time

import pytest

from naturaltone.pipeline import progress
from naturaltone.pipeline.progress import Progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_no_rate_is_shown_before_there_is_one(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", unit="step", total=100) as shown:
        clock[0] = progress._LINE_SECONDS + 1
        shown.advance(10, note="L_color 0.1")
        clock[0] += progress._LINE_SECONDS + 1
        shown.advance(22)
    assert capsys.readouterr().err == "train: 10/100 steps  L_color 0.1\ntrain: 32/100 steps, 2.0/s, 34 s left\n"


def test_lines_are_few_and_show_no_time_left_without_a_total(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("ingest", unit="photo") as shown:
        for _ in range(41):
            clock[0] += 1
            shown.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[-1] == "ingest: 99 photos, 3.0/s"


def test_the_time_left_is_shown_once_the_total_is_known(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ingest", unit="photo") as shown:
        shown.advance()
        shown.expect(51)
        clock[0] += 20
        shown.advance(20)
    assert "21/51 photos, 1.0/s, 30 s left" in capsys.readouterr().err


def test_all_tracked_items_are_yielded() -> None:
    assert list(track(range(5), "count")) == [0, 1, 2, 3, 4]
