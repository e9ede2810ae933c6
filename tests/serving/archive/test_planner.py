"""The plan grows while the source is listed, and says the same as one that compares two whole listings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.lease import hold
from naturaltone.pipeline.listing import File
from naturaltone.serving.archive import options, planner
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.plan import plan_archive
from naturaltone.serving.archive.planner import Outputs
from naturaltone.serving.archive.report import COPIED, ENHANCED, FOLDER, LOCK, SKIPPED, Entry, Report
from naturaltone.serving.archive.task import Kind

OPTIONS = ArchiveOptions()
NAMES = st.lists(
    st.text("ab.- /", min_size=1, max_size=6).filter(lambda name: _is_path(name)), unique=True, max_size=40
)


def _is_path(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/"))


def file_of(name: str) -> File:
    return File(uri=f"s3://source/{name}", relative=name, size=5, modified=0.0, version="1")


def entry_of(name: str, **changes: str) -> Entry:
    done = {"fingerprint": "5-1", "model": "m", "settings": OPTIONS.of_enhanced, "status": ENHANCED}
    return Entry(source=name, output=name, **{**done, **changes})  # type: ignore[arg-type]


def planned(source: str, target: str, chosen: ArchiveOptions = OPTIONS) -> tuple[list[str], int]:
    """The names that a run would process, and how many are done."""
    with (
        Report(target) as report,
        plan_archive(source, target, report, model="m", options=chosen, is_held=False) as plan,
    ):
        names = [task.source for tasks in plan.segments() for task in tasks]
        assert plan.is_complete and plan.num_files == len(names)
        return names, plan.done


@given(there=NAMES, listed=st.permutations(range(12)), is_s3=st.booleans(), others=NAMES)
@settings(max_examples=60)
def test_every_output_is_found_in_time_whatever_the_order_of_the_source(
    there: list[str], listed: list[int], is_s3: bool, others: list[str]
) -> None:
    target = "s3://bucket/target" if is_s3 else "/target"
    order: Callable[[str], object] = (lambda name: name) if is_s3 else (lambda name: name.split("/"))
    outputs = sorted(there, key=order)  # type: ignore[arg-type]
    names = list(dict.fromkeys([*(there[index] for index in listed if index < len(there)), *others]))
    with Report("/nowhere") as report, pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "list_files", lambda uri, stay: iter([file_of(name) for name in outputs]))
        patch.setattr(planner.os.path, "isdir", lambda path: True)
        patch.setattr(planner, "SEGMENT", 3)
        found = Outputs(target, report.database, is_held=False)
        for start in range(0, len(names), 4):
            wave = names[start : start + 4]
            found.take(wave)
            known = {row[0] for row in report.database.execute("SELECT source FROM there").fetchall()}
            assert known & set(wave) == set(there) & set(wave)
        found.take_all()
        rows = [row[0] for row in report.database.execute("SELECT source FROM there").fetchall()]
        assert sorted(rows) == sorted(there), "each name is listed once"


@pytest.mark.parametrize("wave_files", [1, 3, 100])
def test_a_plan_in_waves_names_the_files_of_a_plan_in_one(
    wave_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_WAVE_FILES", wave_files)
    source, target = tmp_path / "source", tmp_path / "target"
    names = [f"{folder}{number}.jpg" for folder in ("", "a/", "a-b/", "a.jpg/", "b/") for number in range(4)]
    for folder in (source, target):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"12345")
            os.utime(folder / name, ns=(1, 1))
    gone, changed, failed, other_model, new = names[0], names[5], names[9], names[13], names[17]
    (target / gone).unlink()
    (source / changed).write_bytes(b"123456")
    with Report(str(target)) as report:
        for name in set(names) - {new}:
            report.add(entry_of(name, model="old" if name == other_model else "m"))
        report.add(entry_of(failed, status="failed", reason="truncated", settings=OPTIONS.of_skipped))
        report.finish()
    todo, done = planned(str(source), str(target))
    assert sorted(todo) == sorted([gone, changed, other_model, new]) and done == len(names) - 5
    with Report(str(target)) as report:
        with plan_archive(str(source), str(target), report, model="m", options=OPTIONS, is_held=False) as plan:
            plan.complete()
            assert plan.broken == {"truncated": 1} and [row.source for row in plan.first_broken] == [failed]
            assert plan.has_work() and plan.num_bytes == 21
    limited, _ = planned(str(source), str(target), ArchiveOptions(limit=3))
    assert limited == sorted(todo)[:3]


@pytest.mark.parametrize("is_s3", [True, False])
@pytest.mark.parametrize("wave_files", [1, 2, 3, 5, 100])
def test_a_wave_that_ends_between_a_photo_and_its_movie_does_not_part_them(
    wave_files: int, is_s3: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_WAVE_FILES", wave_files)
    monkeypatch.setattr(planner, "_FIRST_WAVE_SECONDS", 0.0)
    photos = ["IMG_1.HEIC", "IMG_2.jpg", "IMG_2.MP4.jpg", "sub/IMG_1.JPG"]
    movies = ["IMG_1.MOV", "IMG_2.MP4", "sub/IMG_1.mov"]
    others = ["IMG_1.d/IMG_1.MOV", "IMG_3.MOV", "sub/IMG_2.MP4"]
    between = [f"IMG_2.{number}.txt" for number in range(4)]
    names = [*photos, *movies, *others, *between]
    source, target = "s3://source" if is_s3 else str(tmp_path / "source"), str(tmp_path / "missing")
    if is_s3:
        monkeypatch.setattr(planner, "list_files", lambda uri, stay: iter([file_of(name) for name in sorted(names)]))
    for name in names if not is_s3 else ():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).touch()
    with Report(target) as report:
        with plan_archive(source, target, report, model="m", options=OPTIONS, is_held=False) as plan:
            found = {task.source: task.kind for tasks in plan.segments() for task in tasks}
    expected = {**dict.fromkeys(photos, Kind.PHOTO), **dict.fromkeys(movies, Kind.SIDECAR)}
    assert found == expected | dict.fromkeys([*others, *between], Kind.OTHER)


def test_a_movie_that_was_skipped_is_copied_when_its_photo_comes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "IMG_1.MOV").write_bytes(b"12345")
    os.utime(source / "IMG_1.MOV", ns=(1, 1))
    with Report(str(target)) as report:
        report.add(entry_of("IMG_1.MOV", status=SKIPPED, reason="not_a_photo", settings=OPTIONS.of_skipped))
        report.finish()
    assert planned(str(source), str(target)) == ([], 1)
    (source / "IMG_1.HEIC").touch()
    assert sorted(planned(str(source), str(target))[0]) == ["IMG_1.HEIC", "IMG_1.MOV"]
    assert planned(str(source), str(target), ArchiveOptions(exclude=("*.HEIC",)))[0] == ["IMG_1.MOV"]


def test_a_sidecar_that_was_copied_is_done_until_it_or_the_version_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    names = ["IMG_1.AAE", "IMG_1.jpg.json", "IMG_2.AAE"]
    for folder in (source, target):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"12345")
            os.utime(folder / name, ns=(1, 1))
    with Report(str(target)) as report:
        for name in names:
            report.add(entry_of(name, status=COPIED, settings=OPTIONS.of_skipped))
        report.finish()
    assert planned(str(source), str(target)) == ([], 3)
    os.utime(source / "IMG_2.AAE", ns=(2, 2))
    assert planned(str(source), str(target)) == (["IMG_2.AAE"], 2)
    monkeypatch.setattr(options, "__version__", "another")
    assert planned(str(source), str(target)) == (names, 0)


def listing(names: list[str], *, then: Callable[[], None]) -> Callable[..., Iterator[File]]:
    """A listing of S3 that calls `then` before its last file."""

    def listed(uri: str, *, stay: bool) -> Iterator[File]:
        for name in names[:-1] if uri == "s3://source" else []:
            yield file_of(name)
        then()
        if uri == "s3://source":
            yield file_of(names[-1])

    return listed


def test_the_first_files_are_known_before_the_listing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(planner, "_FIRST_WAVE_SECONDS", 0.0)
    monkeypatch.setattr(planner, "_WAVE_FILES", 2)
    names = ["1.jpg", "2.jpg", "3.txt", "4.jpg", "5.jpg"]
    monkeypatch.setattr(planner, "list_files", listing(names, then=lambda: goes_on.wait(60)))
    target = str(tmp_path / "missing")
    with Report(target) as report:
        with plan_archive("s3://source", target, report, model="m", options=OPTIONS, is_held=False) as plan:
            segments = plan.segments()
            taken = [task.source for task in next(segments)]
            assert taken and set(taken) <= set(names[:4]) and not plan.is_complete and plan.has_work()
            goes_on.set()
            taken += [task.source for tasks in segments for task in tasks]
            assert sorted(taken) == names and plan.is_complete and plan.num_files == 5


def test_a_listing_that_fails_ends_the_run_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("'s3://source': the server failed 6 times")

    monkeypatch.setattr(planner, "_WAVE_FILES", 2)
    monkeypatch.setattr(planner, "list_files", listing(["1.jpg", "2.jpg", "3.jpg", "4.jpg"], then=fail))
    target = str(tmp_path / "missing")
    with Report(target) as report:
        with plan_archive("s3://source", target, report, model="m", options=OPTIONS, is_held=False) as plan:
            with pytest.raises(
                RunFailed, match="cannot be listed: 's3://source': the server failed 6 times; run the same"
            ):
                list(plan.segments())


def test_a_run_that_ends_early_stops_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = 0

    def endless(uri: str, *, stay: bool) -> Iterator[File]:
        nonlocal listed
        while True:
            listed += 1
            yield file_of(f"{listed:09}.jpg")

    monkeypatch.setattr(planner, "_FIRST_WAVE_SECONDS", 0.0)
    monkeypatch.setattr(
        planner, "list_files", lambda uri, stay: endless(uri, stay=stay) if uri == "s3://source" else iter(())
    )
    target = str(tmp_path / "missing")
    with Report(target) as report:
        with plan_archive("s3://source", target, report, model="m", options=OPTIONS, is_held=False) as plan:
            next(plan.segments())
            plan.planner.go_on()
            while listed < 100:
                time.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < planner._STOP_SECONDS, "the thread ends by itself"
    before = listed
    time.sleep(0.2)
    assert listed == before and not any(thread.name == "plan" for thread in threading.enumerate())


def test_half_written_files_of_a_killed_run_go_and_those_of_this_run_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target / "sub"):
        folder.mkdir(parents=True)
    (source / "1.jpg").write_bytes(b"1")
    old, young = (target / "sub" / f".{digit * 8}{storage.TEMPORARY_SUFFIX}" for digit in "0f")
    old.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    with hold(str(target / FOLDER / LOCK), what="it"), Report(str(target)) as report:
        young.write_bytes(b"half")
        os.utime(young, (time.time() + 60, time.time() + 60))
        with plan_archive(str(source), str(target), report, model="m", options=OPTIONS) as plan:
            plan.complete()
    assert not old.exists() and young.exists()
