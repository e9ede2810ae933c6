"""Times the enhancing of an archive with Ray Data, beside the bare enhancer in as many processes."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from naturaltone.infra import local
from naturaltone.infra.bench.bare import bare_enhancers, enhance, photo_of
from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.serving.archive import job as archive
from naturaltone.serving.archive import report as archive_report
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.plan import plan_archive
from naturaltone.serving.enhancer import Enhancer

_PHOTOS = 200
_MEGAPIXELS = (0.3, 1.0, 2.0, 5.0, 8.0, 12.0, 12.0, 24.0)  # the sizes in an archive of twenty years
_ROUNDS = 3
_KNOWN = 100_000  # files of the run with nothing to do


def bench_archive(photos: str, *, model: str) -> dict[str, Any]:
    """Time the enhancing of 200 photos of mixed sizes, made from the folder `photos`; returns a dict of figures.

    naturaltone and the peer take turns. A round before the timed rounds warms both up.
    """
    enhancer = Enhancer.load(model)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photos")
        megapixels = _write_photos(photos, source)
        names = [path.name for path in sorted(source.iterdir())]
        processes = local.cores()
        ours: list[float] = []
        peers: list[float] = []
        with local.ray_session(), bare_enhancers(processes, model) as pool:
            # The first round is not counted: it starts processes, compiles the kernel and fills the page cache.
            for number in range(_ROUNDS + 1):
                started = time.perf_counter()
                summary = archive.enhance_archive(str(source), f"{folder}/ours-{number}", enhancer)
                ours.append(megapixels / (time.perf_counter() - started))
                assert summary.counts == {archive_report.ENHANCED: len(names)}
                started = time.perf_counter()
                target = Path(folder, f"peer-{number}")
                target.mkdir()
                pairs = ((str(source / name), str(target / name)) for name in names)
                list(pool.map(_enhance, *zip(*pairs, strict=True)))
                peers.append(megapixels / (time.perf_counter() - started))
        rescan = _rescan_seconds(Path(folder))
    rate, peer = statistics.median(ours[1:]), statistics.median(peers[1:])
    return {
        "photos": len(names),
        "megapixels": megapixels,
        "processes": processes,
        "mp_per_s": rate,
        "peer_mp_per_s": peer,
        "throughput_ratio": rate / peer,
        "known_files": _KNOWN,
        "rescan_seconds": rescan,
    }


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    return (
        f"archive {figures['mp_per_s']:.1f} MP/s, bare enhancer in {figures['processes']} processes "
        f"{figures['peer_mp_per_s']:.1f} MP/s: {figures['throughput_ratio']:.2f}x "
        f"({figures['photos']} photos, {figures['megapixels']:.0f} megapixels)\n"
        f"a run with nothing to do over {figures['known_files']:,} files: {figures['rescan_seconds']:.1f} s"
    )


def _write_photos(photos: str, folder: Path) -> float:
    """Write JPEGs of mixed sizes, enlarged from real photos; returns their megapixels in total."""
    folder.mkdir()
    uris = itertools.islice(itertools.cycle(find_photos(photos)), _PHOTOS)
    total = 0.0
    for number, (uri, size) in enumerate(zip(uris, itertools.cycle(_MEGAPIXELS), strict=False)):
        photo, megapixels = photo_of(uri, size)
        total += megapixels
        (folder / f"{number:03}.jpg").write_bytes(photo)
    return total


def _enhance(source: str, target: str) -> None:
    storage.write_bytes(target, enhance(storage.read_bytes(source)))


def _rescan_seconds(folder: Path) -> float:
    """The seconds that a run takes to find that every file is done: list both trees, read the report, compare."""
    source, target = folder / "many", folder / "many-done"
    options = ArchiveOptions()
    for tree in (source, target):
        for number in range(_KNOWN // 1000):
            (tree / f"{number:03}").mkdir(parents=True)
    with archive_report.Report(str(target)) as known:
        for number in range(_KNOWN):
            name = f"{number // 1000:03}/{number % 1000:03}.jpg"
            (source / name).touch()
            (target / name).touch()
            modified = (source / name).stat().st_mtime_ns
            known.add(
                archive_report.Entry(
                    source=name,
                    fingerprint=f"0-{modified}",
                    model="model",
                    settings=options.of_enhanced,
                    output=name,
                    status=archive_report.ENHANCED,
                )
            )
        known.finish()
    started = time.perf_counter()
    with (
        archive_report.Report(str(target)) as report,
        plan_archive(str(source), str(target), report, model="model", options=options, is_held=False) as plan,
    ):
        plan.complete()
    seconds = time.perf_counter() - started
    assert plan.num_files == 0 and plan.done == _KNOWN
    return seconds
