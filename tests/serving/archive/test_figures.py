"""An archive shows Prometheus what is done, what failed and why, and how long the rest takes."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from naturaltone.pipeline.figures import Counter, Gauge
from naturaltone.serving.archive import figures
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.report import Entry
from naturaltone.serving.enhancer import Enhancer
from tests.scrapes import scrape_until, value

ALL = {each for each in vars(figures).values() if isinstance(each, Gauge | Counter)}


def entry(status: str, reason: str = "", megapixels: float = 0.0) -> Entry:
    return Entry(
        **{"source": "a", "fingerprint": "", "model": "", "settings": "", "output": ""},
        **{"status": status, "reason": reason, "bytes": 100, "megapixels": megapixels},
    )


def test_the_rest_takes_as_long_as_the_bytes_before_and_each_file_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: dict[tuple[str, ...], float] = {}
    monkeypatch.setattr(Gauge, "set", lambda gauge, value, **_: shown.update({(gauge.name,): value}))

    def add(counter: Counter, count: float, **labels: str) -> None:
        key = (counter.name, *labels.values())
        shown[key] = shown.get(key, 0) + count

    monkeypatch.setattr(Counter, "add", add)
    now = 0.0
    monkeypatch.setattr(figures.time, "monotonic", lambda: now)
    plan: Any = SimpleNamespace(num_files=10, num_bytes=1000, target="t", is_complete=False)
    run = figures.ArchiveFigures(plan)
    now = 10.0  # Ray has started, and the first file is done
    run.add(entry("enhanced", megapixels=2.0))
    assert shown["naturaltone_archive_files_left",] == 9 and ("naturaltone_archive_seconds_left",) not in shown
    now = 10.5
    run.add(entry("failed", "truncated"))
    assert shown["naturaltone_archive_files_left",] == 9, "at most once a second"
    now = 15.0
    run.show()
    assert ("naturaltone_archive_seconds_left",) not in shown, "the listing goes on"
    plan.is_complete = True
    now = 20.0
    run.add(entry("enhanced", megapixels=1.0))
    run.show()
    assert shown["naturaltone_archive_files_done", "t", "enhanced", ""] == 2
    assert shown["naturaltone_archive_files_done", "t", "failed", "truncated"] == 1
    assert shown["naturaltone_archive_megapixels", "t"] == 3
    assert shown["naturaltone_archive_files_left",] == 7
    assert shown["naturaltone_archive_seconds_left",] == pytest.approx(700 * 10 / 200)


@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_reads_a_real_run(photo_folder: Path, tmp_path: Path, enhancer: Enhancer) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for number in range(1, 4):
        (source / f"{number}.jpg").write_bytes((photo_folder / f"{number:02}.jpg").read_bytes())
    (source / "cut.jpg").write_bytes((photo_folder / "01.jpg").read_bytes()[:900])
    (source / "note.txt").write_text("Dear all")
    enhance_archive(str(source), str(target), enhancer)
    to = str(target)
    found = scrape_until(
        {figure.series for figure in ALL},
        lambda found: (
            frozenset({("target", to)}) in found[figures.FILES_LEFT.series]
            and value(found, figures.FILES_LEFT.series, target=to) == 0
        ),
    )
    assert (
        value(found, figures.FILES.series, target=to) == 5 and value(found, figures.FILES_LEFT.series, target=to) == 0
    )
    assert value(found, figures.DONE.series, target=to, status="enhanced", reason="") == 3
    assert value(found, figures.DONE.series, target=to, status="failed", reason="truncated") == 1
    assert value(found, figures.DONE.series, target=to, status="skipped", reason="not_a_photo") == 1
    assert value(found, figures.MEGAPIXELS.series, target=to) == pytest.approx(3 * 150 * 120 / 1e6)
    assert value(found, figures.LAST_FILE.series, target=to) == pytest.approx(time.time(), abs=900)
