"""How much faster archives and ingests are with two nodes of one core each than with one.

    python -m tests.benchmarks.nodes ../photos --photos 200

Each node is a `ray start` with one CPU, and its processes are bound to a core of their own. The first core also carries what
every cluster has once: Ray's head and the driver. With `--room` these two may use any core: then one node has a core alone,
and of two nodes none has. One run with one node and one with two take turns; a run with few photos before each timed
one starts the workers. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from naturaltone.infra import local
from naturaltone.infra.bench.bare import photo_of
from naturaltone.pipeline.dataset.ingest import ingest
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.enhancer import Enhancer
from tests.processes import kill_with_children

_RAY = Path(sys.executable).with_name("ray")
_ROUNDS, _FEW = 3, 32
_CORES = os.sched_getaffinity(0)
_MEGAPIXELS = 3.0


@contextlib.contextmanager
def started(arguments: list[str], folder: Path, cores: set[int]) -> Iterator[None]:
    """`ray start`, bound to these cores, until the context ends."""
    folder.mkdir()
    bound = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    command = [*bound, str(_RAY), "start", "--block", "--temp-dir", str(folder), *arguments]
    with open(folder / "printed", "wb") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while "Ray runtime started" not in (text := (folder / "printed").read_text()):
            if process.poll() is not None:
                raise RuntimeError(text)
            time.sleep(0.2)
        yield
    finally:
        kill_with_children(process)


def time_one_and_two(work: Callable[[Path, Path], int], photos: Path) -> dict[str, float]:
    """Photos a second of `work` (source, target) with one and with two nodes: the median of rounds in turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(_ROUNDS):
        for nodes in rates:
            rates[nodes].append(_rate(work, photos, nodes))
            print(f"round {number + 1}: {nodes} nodes, {rates[nodes][-1]:.2f} photos/s", file=sys.stderr, flush=True)
    one, two = (statistics.median(found) for found in rates.values())
    return {"one_node": one, "two_nodes": two, "factor": two / one}


def _rate(work: Callable[[Path, Path], int], photos: Path, nodes: int) -> float:
    """Photos a second on a new cluster, whose workers have started."""
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="nt-", ignore_cleanup_errors=True)))
        port = local.free_port()
        head = ["--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false"]
        running.enter_context(started(head, folder / "head", os.sched_getaffinity(0)))
        for core in sorted(_CORES)[:nodes]:
            node = ["--address", f"127.0.0.1:{port}", "--num-cpus", "1"]
            running.enter_context(started(node, folder / f"node-{core}", {core}))
        with local.environment({"RAY_ADDRESS": f"127.0.0.1:{port}"}), local.ray_session():
            work(photos / "few", folder / "warm")
            begun = time.perf_counter()
            return work(photos / "all", folder / "timed") / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", help="folder of photos; they are enlarged to 3 megapixels")
    parser.add_argument("--photos", dest="count", type=int, default=200, help="photos of a run (%(default)s)")
    parser.add_argument("--only", choices=["archive", "ingest"], help="time only this (default: both)")
    parser.add_argument("--room", action="store_true", help="let the head and the driver use any core")
    options = parser.parse_args()
    if not options.room:
        os.sched_setaffinity(0, {min(_CORES)})
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    found: dict[str, object] = {"photos": options.count, "megapixels": _MEGAPIXELS, "room": options.room}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder)
        for name, count in (("few", _FEW), ("all", options.count)):
            (photos / name).mkdir()
            for number, uri in enumerate(itertools.islice(itertools.cycle(find_photos(options.photos)), count)):
                data = photo_of(uri, _MEGAPIXELS)[0] + bytes(number)  # each file is another photo
                (photos / name / f"{number:04}.jpg").write_bytes(data)
        enhancer = Enhancer.load("pretrained")

        def archive(source: Path, target: Path) -> int:
            return enhance_archive(str(source), str(target), enhancer).counts["enhanced"]

        def stored(source: Path, target: Path) -> int:
            return ingest(str(source), role="input", store=str(target)).added

        for name, work in (("archive", archive), ("ingest", stored)):
            if options.only not in (name, None):
                continue
            found |= {f"{name}_{key}": value for key, value in time_one_and_two(work, photos).items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
