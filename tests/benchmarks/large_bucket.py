"""What a driver needs for a very large bucket: memory, and the seconds to the first photo.

    python -m tests.benchmarks.large_bucket archive --objects 10_000_000
    python -m tests.benchmarks.large_bucket ingest --objects 1_000_000
    python -m tests.benchmarks.large_bucket rescan --objects 1_000_000
    python -m tests.benchmarks.large_bucket known --photos 100_000_000

archive and ingest run the command over `listing_server` until the listing has ended, then stop it. rescan ingests a bucket
whose photos the store knows. known opens a store of so many random photos and does what an ingest's driver does for one wave.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import ingest, ledger, shards
from naturaltone.pipeline.listing import File
from tests.benchmarks.listing_server import KEYS, serving

_WAIT_SECONDS = 3600.0


def measure_command(what: str, objects: int, seconds: float) -> dict[str, float]:
    """Run `enhance` or `ingest` over the bucket until its listing has ended, or for so many seconds."""
    with tempfile.TemporaryDirectory() as folder, serving(objects) as server:
        target, source = Path(folder, "target"), "s3://photos/albums"
        if what == "rescan":
            _know(target, objects)
        command = (
            ["enhance", source, str(target)]
            if what == "archive"
            else ["ingest", source, "--role", "input", "--to", str(target)]
        )
        environment = {
            **os.environ,
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "TMPDIR": folder,
        }
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "naturaltone", *command], env=environment, stdout=subprocess.DEVNULL
        )
        seen: dict[str, float] = {}
        sizes: dict[str, float] = {}
        passes = (
            2 if what != "archive" and objects > ingest.WAVE_PHOTOS else 1
        )  # an ingest counts all files for its ETA
        while process.poll() is None and time.monotonic() - started < seconds:
            passed = time.monotonic() - started
            sizes["driver_mib"] = max(sizes.get("driver_mib", 0), _peak_mib(process.pid))
            sizes["all_mib"] = max(sizes.get("all_mib", 0), _all_mib(process.pid))
            if "first_photo_seconds" not in seen and _is_there(target, what):
                seen |= {
                    "first_photo_seconds": passed,
                    "first_photo_cpu_seconds": _cpu_seconds(process.pid),
                    "pages_at_first_photo": server.pages,  # type: ignore[attr-defined]
                }
            if server.pages >= passes * objects / 1000 and "listed_seconds" not in seen:  # type: ignore[attr-defined]
                seen |= {"listed_seconds": passed, "photos_when_listed": _num_photos(target)}
                seconds = min(seconds, passed + 20) if what != "rescan" else seconds
            time.sleep(0.25)
        rc = process.poll()
        if rc is None:
            process.send_signal(signal.SIGINT)
            process.wait(120)
        pages = server.pages  # type: ignore[attr-defined]
        return {
            "objects": objects,
            **seen,
            **sizes,
            "pages": pages,
            "seconds": time.monotonic() - started,
            "rc": -1 if rc is None else rc,
        }


def measure_known(photos: int) -> dict[str, float]:
    """Memory and time of an ingest's driver over a store of so many photos, for one wave of new files."""
    with tempfile.TemporaryDirectory() as folder:
        store = _empty(folder)
        lists = [_random_list(folder, seed, count) for seed, count in _parts(photos)]
        row_groups = _row_groups(photos)
        shards.update_manifest(
            store,
            lambda empty: dataclasses.replace(
                empty, row_groups=row_groups, sources=empty.sources | {"input": tuple(lists)}
            ),
        )
        code = (
            f"import json; from tests.benchmarks import large_bucket as b; print(json.dumps(b.use_known({folder!r})))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return {"photos": photos, **json.loads(done.stdout)}


def use_known(folder: str) -> dict[str, float]:
    random = np.random.default_rng(0)
    measured = {"imports_mib": _own_peak_mib()}
    store = shards.open_store(folder)
    measured["manifest_mib"] = _own_peak_mib()
    started = time.monotonic()
    with ledger.Known.load(store, "input") as known:
        measured |= {"load_seconds": time.monotonic() - started, "loaded_mib": _own_peak_mib()}
        old = shards.read_row_group(folder, store.sources["input"][0], 0, ["key", "photo_id"]).slice(
            0, ingest.WAVE_PHOTOS
        )
        new = [random.bytes(16) for _ in range(ingest.WAVE_PHOTOS)]
        for name, keys, expected in (("known", old["key"].to_pylist(), True), ("new", new, False)):
            started = time.monotonic()
            assert (known.has(keys) == expected).all()
            measured[f"{name}_wave_seconds"] = time.monotonic() - started
        started = time.monotonic()
        for digest in ledger.id_digests(old["photo_id"])[:2000]:
            assert all(run.has(np.array([digest]))[0] for run in known.ids.runs)
        measured["id_ms"] = (time.monotonic() - started) / 2
        rows = _random_rows(np.random.default_rng(1), ingest.WAVE_PHOTOS)
        started = time.monotonic()
        known.new_rows(rows)
        known.add(rows)
        measured |= {"add_wave_seconds": time.monotonic() - started, "wave_mib": _own_peak_mib()}
        measured["files_mib"] = (
            sum(path.stat().st_size for run in (*known.keys.runs, *known.ids.runs) for path in [run.path]) / 2**20
        )
    started = time.monotonic()
    shards.update_manifest(store, lambda newest: dataclasses.replace(newest, row_groups=newest.row_groups))
    return measured | {"manifest_seconds": time.monotonic() - started, "peak_mib": _own_peak_mib()}


def _know(target: Path, objects: int) -> None:
    """Make a store that knows all photos of the bucket by name, size and version."""
    from tests.benchmarks.listing_server import BUCKET, Bucket, real_photos

    bucket = Bucket(objects, real_photos())
    random, store = np.random.default_rng(0), _empty(str(target))

    def listed(first: int, count: int) -> str:
        keys = [bucket.key(n) for n in range(first, first + count)]
        files = (
            File(f"s3://{BUCKET}/{key}", key, bucket.size(n), 0.0, bucket.etag(n))
            for n, key in enumerate(keys, start=first)
        )
        rows = _random_rows(random, count).set_column(
            1, "key", pa.array([ledger.key_of(file) for file in files], pa.binary(16))
        )
        return ledger.write_sources(str(target), "input", rows)

    names = tuple(
        listed(first, min(ingest.WAVE_PHOTOS, objects - first)) for first in range(0, objects, ingest.WAVE_PHOTOS)
    )
    row_groups = _row_groups(objects)
    shards.update_manifest(
        store, lambda s: dataclasses.replace(s, row_groups=row_groups, sources=s.sources | {"input": names})
    )


def _empty(folder: str) -> shards.Store:
    return shards.empty_store(folder, algorithm=tone.algorithm_id(), long_side=shards.LONG_SIDE)


def _parts(photos: int) -> Iterator[tuple[int, int]]:
    for seed, first in enumerate(range(0, photos, ingest.WAVE_PHOTOS)):
        yield seed + 10, min(ingest.WAVE_PHOTOS, photos - first)


def _random_list(folder: str, seed: int, count: int) -> str:
    return ledger.write_sources(folder, "input", _random_rows(np.random.default_rng(seed), count))


def _random_rows(random: np.random.Generator, count: int) -> pa.Table:
    """Rows of schema `SOURCES` with random digests."""
    hexadecimal = random.bytes(32 * count).hex().encode()
    offsets = np.arange(0, 64 * count + 1, 64, dtype=np.int32)
    ids = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(hexadecimal))
    numbers = pa.array(random.integers(0, 10**9, count)).cast(pa.string())
    empty = pa.nulls(count, pa.string())
    return pa.table(
        {
            "source": pc.binary_join_element_wise("s3://photos/albums/IMG_", numbers, ".jpg", ""),
            "key": pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(random.bytes(16 * count))]),
            "photo_id": ids,
            "reason": empty,
            "detail": empty,
        },
        schema=shards.SOURCES,
    )


def _row_groups(photos: int) -> pa.Table:
    """The manifest's rows of so many inputs, in shards of 256."""
    groups = -(-photos // shards.ROW_GROUP_PHOTOS)
    per_shard = shards.SHARD_PHOTOS // shards.ROW_GROUP_PHOTOS
    names = pa.array([f"input/train-{n:016x}.parquet" for n in range(-(-groups // per_shard))])
    files = pa.DictionaryArray.from_arrays(pa.array(np.arange(groups, dtype=np.int32) // per_shard), names)
    one = {"role": "input", "split": "train"}
    columns = {
        name: pa.DictionaryArray.from_arrays(pa.array(np.zeros(groups, np.int8)), pa.array([v]))
        for name, v in one.items()
    }
    columns |= {"file": files, "row_group": pa.array((np.arange(groups) % per_shard).astype(np.int16))}
    columns |= {
        "num_photos": pa.array(np.full(groups, 16, np.int16)),
        "num_bytes": pa.array(np.full(groups, 10**6, np.int32)),
    }
    return pa.table(columns, schema=shards.ROW_GROUPS)


def _is_there(target: Path, what: str) -> bool:
    return next(target.glob("0*/*.jpg" if what == "archive" else "input/*.parquet"), None) is not None


def _num_photos(target: Path) -> int:
    if (target / "input").is_dir():
        return sum(pq.read_metadata(path).num_rows for path in islice((target / "input").glob("*.parquet"), 10**4))
    return sum(1 for _ in target.glob("0*/*.jpg"))


def _peak_mib(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _all_mib(pid: int) -> float:
    """The memory of the process and of all that it started; shared pages count once (PSS)."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def _cpu_seconds(pid: int) -> float:
    """The CPU time of the process and of all that it started: more than the seconds that a machine with a free core needs."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _own_peak_mib() -> float:
    return _peak_mib(os.getpid())  # getrusage would count the parent's memory, from before `exec`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["archive", "ingest", "rescan", "known"])
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--photos", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=_WAIT_SECONDS)
    options = parser.parse_args()
    if options.what == "known":
        measured = measure_known(options.photos)
    else:
        measured = measure_command(options.what, options.objects, options.seconds)
    print(json.dumps({name: round(value, 2) for name, value in measured.items()}))


if __name__ == "__main__":
    main()
