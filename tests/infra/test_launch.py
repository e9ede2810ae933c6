"""`--workers` takes a number or a range, and no run is trained if a later one would be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.infra import launch, local
from naturaltone.pipeline.errors import UserError
from naturaltone.training.config import smoke


@given(fewest=st.integers(1, 10**6), more=st.integers(0, 10**6))
def test_a_number_or_a_range_of_workers_is_understood(fewest: int, more: int) -> None:
    assert launch.parse_workers(str(fewest)) == fewest
    assert launch.parse_workers(f"{fewest}-{fewest + more}") == (fewest, fewest + more)


@given(text=st.text(max_size=8))
def test_any_other_text_is_refused_and_repeated_in_the_message(text: str) -> None:
    try:
        workers = launch.parse_workers(text)
    except UserError as error:
        assert str(error).startswith(f"--workers '{text}': ")
    else:
        assert isinstance(workers, int) or 1 <= workers[0] <= workers[1]


def test_a_machine_without_gpus_trains_with_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "num_gpus", lambda: 0)
    assert launch.default_workers() == 1
    monkeypatch.setattr(local, "num_gpus", lambda: 4)
    assert launch.default_workers() == 4


def test_a_wrong_second_run_is_refused_before_ray_starts(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(local, "ray_session", started)
    good = launch.TrainingRun(name="good", config=smoke(), bundle=tmp_path)
    wrong = launch.TrainingRun(name="wrong", config=smoke(), bundle=tmp_path, intermediates="none")
    with pytest.raises(UserError, match="--intermediates 'none'"):
        launch.train(store, [good, wrong], workers=1)
