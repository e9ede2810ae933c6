"""Computes what a million, a hundred million and a billion photos take, from constants that were measured.

    python -m tests.benchmarks.scale_model                      # print every table
    python -m tests.benchmarks.scale_model --write docs/scaling.md    # put them into the page

Each measured constant quotes the line of RESULTS.md that it comes from. A constant without a quote is an assumption.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PHOTOS = (10**6, 10**8, 10**9)
CORES = (10, 100, 1000)


@dataclass(frozen=True)
class Constant:
    """A number of the model. date, quote: the entry of RESULTS.md, and words in it; empty for an assumption."""

    value: float
    unit: str
    meaning: str
    date: str = ""
    quote: str = ""


CONSTANTS = {
    # What a photo is: assumptions about the user's archive.
    "photo_mp": Constant(12, "megapixels", "a photo of the archive"),
    "photo_mb": Constant(4, "MB", "the same, as a JPEG"),
    # Measured.
    "stored_kb_per_mp": Constant(
        1097, "kB/MP", "a stored input with its intermediate (111 + 229 kB for 0.31 MP)", "2026-11-23", "111, 1.68, 44.8 dB"
    ),
    "enhance_mp_per_core": Constant(
        45.4, "MP/s", "an archive on one core, files read and written (90.8 on two)", "2026-11-24", "90.8 MP/s"
    ),
    "tone_mp_per_core": Constant(22.6, "MP/s", "local_laplacian on one core", "2026-11-23", "local_laplacian | 4 | 22.6"),
    "codec_seconds_per_mp": Constant(
        0.00875, "s/MP", "decode and encode a photo (0.21 s for 24 MP)", "2026-11-24", "| 0.21 | 2.04×"
    ),
    "listing_us": Constant(48, "µs/file", "CPU of the driver to list an S3 bucket", "2026-11-27", "48 µs of CPU"),
    "plan_us": Constant(20.6, "µs/file", "find a file done: list two folders, compare", "2026-11-25", "2.06 s"),
    "hand_over_ms": Constant(30, "ms/block", "Ray's cost of one block of finished files", "2026-11-24", "30 ms for each block"),
    "manifest_mib": Constant(0.32, "MiB/10⁶ photos", "the manifest (32 MiB for 10⁸)", "2026-11-23", "32 MiB"),
    "train_memory_mib": Constant(470, "MiB", "a process that plans a training on 10⁸ photos", "2026-11-23", "470 MiB of the"),
    "archive_mib": Constant(829, "MiB", "an archive's driver, 3.3 of 10⁷ files listed", "2026-11-27", "829 MiB"),
    "report_gib": Constant(0.62, "GiB", "its report of 10⁷ files alone", "2026-11-25", "a peak of 0.62"),
    "worker_mib": Constant(684, "MiB", "a process that enhances a photo of 24 MP", "2026-11-24", "684 MiB"),
    "list_bytes": Constant(61, "bytes/photo", "the list of sources, as Parquet", "2026-11-27", "61 bytes a photo"),
    "ingest_base_mib": Constant(350, "MiB", "an ingest's driver at its peak, without Ray", "2026-11-27", "350 MiB and 3.4 MiB"),
    "ingest_mib_per_million": Constant(3.4, "MiB/10⁶ photos", "what it grows by", "2026-11-27", "350 MiB and 3.4 MiB"),
    "known_mib": Constant(213, "MiB", "what the known files take of it, for 10⁸", "2026-11-27", "213 MiB"),
    "known_load_us": Constant(3, "µs/photo", "CPU to read what the store knows", "2026-11-27", "3 µs of CPU a photo"),
    "patent_tflop": Constant(
        0.908, "TFLOP/step", "recipe patent, 16 photos, counted by torch", "2026-11-27", "0.908 TFLOP a step"
    ),
    # What nobody measured here.
    "gpu_tflops": Constant(989, "TFLOP/s", "an H100 at its best (dense bf16, NVIDIA's data sheet)"),
    "gpu_share": Constant(0.1, "", "the share of it that training reaches; not measured on any GPU"),
    "put_per_prefix": Constant(3500, "PUT/s", "what S3 takes for one prefix (AWS's guide)"),
    "get_per_prefix": Constant(5500, "GET/s", "what S3 answers for one prefix (AWS's guide)"),
    "page_seconds": Constant(0.15, "s", "a page of 1000 names from a distant S3 server"),
    "core_hour": Constant(0.04, "$", "a core for an hour"),
    "tb_month": Constant(23, "$", "a TB in S3 for a month"),
    "put_million": Constant(5, "$", "a million PUT or LIST requests"),
    "get_million": Constant(0.4, "$", "a million GET requests"),
}  # fmt: skip
STEPS, BATCH = 100_000, 16  # of the recipe patent; a test compares them
SHARD, ROW_GROUP, WAVE, LONG_SIDE = 256, 16, 2**16, 1024  # a test compares them with the code
PAGE = 1000  # names in a page of S3

Values = dict[str, float]
Rows = list[list[str]]


def values() -> Values:
    return {name: constant.value for name, constant in CONSTANTS.items()}


def stored_mp() -> float:
    """Megapixels of a stored photo: the long side shrunk to LONG_SIDE, at 3:2."""
    return LONG_SIDE * LONG_SIDE * 2 / 3 / 1e6


def stored_gb(c: Values, photos: float) -> float:
    return photos * stored_mp() * c["stored_kb_per_mp"] / 1e6


def ingest_core_seconds(c: Values) -> float:
    """Of one photo: decode it, compute the intermediate, code two pictures."""
    coded = c["photo_mp"] + 2 * stored_mp()
    return coded * c["codec_seconds_per_mp"] + stored_mp() / c["tone_mp_per_core"]


def archive_core_seconds(c: Values) -> float:
    return c["photo_mp"] / c["enhance_mp_per_core"]


def gpu_hours(c: Values) -> float:
    return STEPS * c["patent_tflop"] / (c["gpu_tflops"] * c["gpu_share"]) / 3600


def table_constants(c: Values) -> Rows:
    rows = [["constant", "value", "what it is", "measured"]]
    for name, constant in CONSTANTS.items():
        rows.append([f"`{name}`", f"{c[name]:g} {constant.unit}".strip(), constant.meaning, constant.date or "assumed"])
    return rows


def table_store(c: Values) -> Rows:
    return _by_photos(
        {
            "shards of 256 photos": lambda n: _count(n / SHARD),
            "row groups of 16 photos": lambda n: _count(n / ROW_GROUP),
            "shards, bytes": lambda n: _gigabytes(stored_gb(c, n)),
            "manifest": lambda n: _mebibytes(n / 1e6 * c["manifest_mib"]),
            "lists of sources": lambda n: _gigabytes(n * c["list_bytes"] / 1e9),
        }
    )


def table_requests(c: Values) -> Rows:
    return _by_photos(
        {
            "ingest: LIST (twice, once for the time left)": lambda n: _count(2 * n / PAGE),
            "ingest: GET of photos": _count,
            "ingest: PUT of shards, lists and manifests": lambda n: _count(n / SHARD + 2 * n / WAVE),
            "archive: LIST of source and target": lambda n: _count(2 * n / PAGE),
            "archive: GET of photos": _count,
            "archive: GET of targets, to see what is there": _count,
            "archive: PUT of photos": _count,
        }
    )


def table_hours(c: Values) -> Rows:
    return _by_photos(
        {
            f"ingest, core hours ({ingest_core_seconds(c):.2f} s a photo)": lambda n: _count(
                n * ingest_core_seconds(c) / 3600
            ),
            f"archive, core hours ({archive_core_seconds(c):.2f} s a photo)": lambda n: _count(
                n * archive_core_seconds(c) / 3600
            ),
            "recipe `patent`, hours of one GPU (an estimate)": lambda n: f"{gpu_hours(c):.1f}",
            "photos that the recipe looks at": lambda n: _count(min(n, STEPS * BATCH)),
        }
    )


def table_days(c: Values) -> Rows:
    rows = [["", *(f"{cores:,} cores" for cores in CORES)]]
    for what, seconds in (("ingest", ingest_core_seconds(c)), ("archive", archive_core_seconds(c))):
        rows += [[f"{what} of {_power(n)}", *(_days(n * seconds / cores) for cores in CORES)] for n in PHOTOS]
    return rows


def table_rates(c: Values) -> Rows:
    """What a cluster asks of the object store and of the network while all cores work."""
    rows = [["", *(f"{cores:,} cores" for cores in CORES)]]
    stored = stored_gb(c, 1) * 1000  # MB
    for what, seconds, written, puts in (
        ("ingest", ingest_core_seconds(c), stored, 1 / SHARD),
        ("archive", archive_core_seconds(c), c["photo_mb"], 1.0),
    ):
        gets = 1.0 if what == "ingest" else 2.0
        rows += [
            [f"{what}: photos/s", *(f"{cores / seconds:,.0f}" for cores in CORES)],
            [f"{what}: GET/s", *(f"{gets * cores / seconds:,.0f}" for cores in CORES)],
            [f"{what}: PUT/s", *(f"{puts * cores / seconds:,.1f}" for cores in CORES)],
            [f"{what}: Gbit/s in", *(f"{cores / seconds * c['photo_mb'] * 8 / 1000:,.1f}" for cores in CORES)],
            [f"{what}: Gbit/s out", *(f"{cores / seconds * written * 8 / 1000:,.1f}" for cores in CORES)],
        ]
    return rows


def table_memory(c: Values) -> Rows:
    return _by_photos(
        {
            "driver of an ingest, at its peak": lambda n: _mebibytes(
                c["ingest_base_mib"] + n / 1e6 * c["ingest_mib_per_million"]
            ),
            "of it for known files (10⁸ measured, no other)": lambda n: _mebibytes(c["known_mib"]) if n == 1e8 else "–",
            "its files in TMPDIR": lambda n: _gigabytes(n * 32 / 1e9),
            "driver of an archive (to 3.3·10⁶ measured)": lambda n: _mebibytes(c["archive_mib"]),
            "a process that only reads and writes its report (10⁷)": lambda n: _mebibytes(c["report_gib"] * 1024),
            "training worker, for its plan": lambda n: _mebibytes(
                c["train_memory_mib"] + max(0.0, n / 1e8 - 1) * 100 * c["manifest_mib"] * 2
            ),
            "node, a worker of an archive": lambda n: _mebibytes(c["worker_mib"]),
            "node, a shard of an ingest": lambda n: _mebibytes(stored_gb(c, SHARD) * 1000),
        }
    )


def table_limits(c: Values) -> Rows:
    """The most that each part does, and the cores that it feeds."""
    rows = [["part", "its most", "cores it feeds: ingest", "archive"]]
    per_ingest, per_archive = ingest_core_seconds(c), archive_core_seconds(c)
    blocks = 1000 / c["hand_over_ms"]
    listed = 1 / max(c["listing_us"] / 1e6, c["page_seconds"] / PAGE)
    # A worker hands over once a second, or once a photo if a photo takes longer.
    rows.append(
        [
            "blocks that the driver takes (one a second and worker)",
            f"{blocks:.0f} /s",
            "–",
            _count(blocks * max(1.0, per_archive)),
        ]
    )
    for name, rate, gets in (
        ("one thread that lists names", listed, (1.0, 1.0)),
        ("GET of one prefix", c["get_per_prefix"], (1.0, 2.0)),
    ):
        rows.append(
            [name, f"{rate:,.0f} /s", _count(rate / gets[0] * per_ingest), _count(rate / gets[1] * per_archive)]
        )
    rows.append(
        [
            "PUT of one prefix",
            f"{c['put_per_prefix']:,.0f} /s",
            _count(c["put_per_prefix"] * SHARD * per_ingest),
            _count(c["put_per_prefix"] * per_archive),
        ]
    )
    return rows


def table_waiting(c: Values) -> Rows:
    """What one thread of the driver does alone, whatever the cluster."""
    return _by_photos(
        {
            "list the source (CPU)": lambda n: _days(n * c["listing_us"] / 1e6),
            "list the source (a distant server)": lambda n: _days(n / PAGE * c["page_seconds"]),
            "ingest: read what the store knows": lambda n: _days(n * c["known_load_us"] / 1e6),
            "archive: find all done": lambda n: _days(n * c["plan_us"] / 1e6),
        }
    )


def table_costs(c: Values) -> Rows:
    """The three classes of cost: cores and requests once, storage each month."""
    puts, gets = c["put_million"] / 1e6, c["get_million"] / 1e6
    return _by_photos(
        {
            "ingest: cores": lambda n: _dollars(n * ingest_core_seconds(c) / 3600 * c["core_hour"]),
            "ingest: requests": lambda n: _dollars((2 * n / PAGE + n / SHARD) * puts + n * gets),
            "archive: cores": lambda n: _dollars(n * archive_core_seconds(c) / 3600 * c["core_hour"]),
            "archive: requests": lambda n: _dollars((2 * n / PAGE + n) * puts + 2 * n * gets),
            "storage of the store, a month": lambda n: _dollars(stored_gb(c, n) / 1000 * c["tb_month"]),
            "storage of the enhanced photos, a month": lambda n: _dollars(n * c["photo_mb"] / 1e6 * c["tb_month"]),
        }
    )


TABLES: dict[str, Callable[[Values], Rows]] = {
    "constants": table_constants,
    "store": table_store,
    "requests": table_requests,
    "hours": table_hours,
    "days": table_days,
    "rates": table_rates,
    "memory": table_memory,
    "limits": table_limits,
    "waiting": table_waiting,
    "costs": table_costs,
}


def markdown(name: str, c: Values) -> str:
    head, *rows = TABLES[name](c)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(page: str, c: Values) -> str:
    """The page with each table between its two comments replaced."""
    for name in TABLES:
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = block.subn(lambda found, name=name: f"{found[1]}{markdown(name, c)}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} tables '{name}'; it needs one")
    return page


def _by_photos(rows: dict[str, Callable[[float], str]]) -> Rows:
    return [["", *(_power(n) for n in PHOTOS)], *([name, *(cell(n) for n in PHOTOS)] for name, cell in rows.items())]


def _power(n: float) -> str:
    return {10**6: "10⁶", 10**8: "10⁸", 10**9: "10⁹"}[int(n)]


def _count(number: float) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _gigabytes(number: float) -> str:
    return (
        f"{number / 1e6:.3g} PB" if number >= 1e6 else f"{number / 1e3:.3g} TB" if number >= 1e3 else f"{number:.2g} GB"
    )


def _mebibytes(number: float) -> str:
    return f"{number / 1024:.3g} GiB" if number >= 1024 else f"{number:.3g} MiB"


def _days(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _dollars(number: float) -> str:
    return f"${float(f'{number:.2g}'):,.0f}" if number >= 10 else f"${number:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the tables into this page")
    options = parser.parse_args()
    for name in TABLES:
        print(f"{name}\n\n{markdown(name, values())}\n")
    if options.write:
        options.write.write_text(with_tables(options.write.read_text(), values()))


if __name__ == "__main__":
    main()
