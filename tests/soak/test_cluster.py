"""The topology of a cluster as plain processes: PostgreSQL, MLflow, S3, and Ray's head with two workers, each started by
`ray start`. Nodes are killed, and the results are the bytes of an undisturbed run.

The whole file takes about ten minutes on two cores; a test that takes 15 fails.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch

from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from naturaltone.serving import promotions, registry
from naturaltone.training import model_registry, runs
from tests import postgresql
from tests.processes import kill_with_children, start_until_ready
from tests.soak.test_service import Served, mlflow_server, serving

pytestmark = pytest.mark.timeout(900)

_RAY = Path(sys.executable).with_name("ray")
_SECONDS = 240.0
_TASKS = ("ray::Map", "ray::RayTrainWorker", "ray::_process_chunk")
_STEPS, _EVERY = 60, 10
_TRAIN = ("--recipe", "smoke", *("--set", f"steps={_STEPS}"), *("--set", f"checkpoint_every={_EVERY}"))


@dataclass
class Cluster:
    """Ray's head, which does no work, and nodes with room for one training worker each.

    folder: of the commands. short: of Ray's own files; a socket's path must be shorter than those of pytest.
    """

    head: str
    environment: dict[str, str]
    folder: Path
    short: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self) -> None:
        folder = self.short / f"node-{len(self.nodes)}"
        # Nodes of one machine would give the same ports to their workers.
        ports = ("--min-worker-port", "0", "--max-worker-port", "0")
        command = [str(_RAY), "start", "--address", self.head, "--block", "--num-cpus", "3", *ports]
        self.nodes.append(
            start_until_ready(
                lambda: self.start([*command, "--temp-dir", str(folder)], folder), lambda: has_started(folder)
            )
        )

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        with open(folder / "printed", "wb") as printed:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=self.environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def oldest(self) -> subprocess.Popen[bytes]:
        return next(node for node in self.nodes if node.poll() is None)

    def is_at_work(self, node: subprocess.Popen[bytes]) -> bool:
        """Whether the node runs a task of ours."""
        for each in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if each.cmdline()[0].startswith(_TASKS):
                    return True
        return False

    def run(self, *arguments: str, code: int = exit_codes.OK, **more: str) -> str:
        """Run a command of naturaltone on the cluster; returns what it printed."""
        say(" ".join(arguments[:2]))
        done = subprocess.run(
            [sys.executable, "-m", "naturaltone", *arguments],
            env=self.environment | {"RAY_ADDRESS": self.head} | more,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def begin(self, *arguments: str, until: Callable[[], object]) -> subprocess.Popen[bytes]:
        """Start a command, and wait until `until()` is true, which must be before its end."""
        say("begin " + " ".join(arguments[:2]))
        with open(self.folder / "disturbed", "wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "naturaltone", *arguments],
                env=self.environment | {"RAY_ADDRESS": self.head},
                cwd=self.folder,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: process.poll() is not None or until())
        assert process.poll() is None, "ended too early: " + self.printed()
        return process

    def lose_a_node(self) -> None:
        """Kill the oldest node, and bring a new one."""
        kill_with_children(self.oldest())
        self.add_node()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(_SECONDS) == exit_codes.OK, self.printed()

    def printed(self) -> str:
        return (self.folder / "disturbed").read_text()


@pytest.fixture(scope="module")
def head(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str], object_store: local.ObjectStore
) -> Iterator[Cluster]:
    """A cluster without a node, MLflow on PostgreSQL, and S3."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {
        **clean_environment,
        **object_store.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NATURALTONE_CACHE": str(folder / "cache"),
    }
    port, tracking = local.free_port(), local.free_port()
    own = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{tracking}"}
    with contextlib.ExitStack() as running:
        short = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="nt-", dir="/tmp", ignore_cleanup_errors=True))
        )
        cluster = Cluster(f"127.0.0.1:{port}", environment | own, folder, short)
        database = running.enter_context(postgresql.running())
        uri = f"postgresql+psycopg2://mlflow:any@{database}/mlflow"
        (folder / "mlflow").mkdir()
        running.enter_context(mlflow_server(folder / "mlflow", tracking, environment, uri))
        running.enter_context(local.environment(own))
        command = [
            *(str(_RAY), "start", "--head", "--block", "--num-cpus", "0", "--include-dashboard", "false"),
            *("--port", str(port), "--temp-dir", str(short / "head")),
            *("--ray-client-server-port", str(local.free_port())),
        ]
        process = start_until_ready(lambda: cluster.start(command, short / "head"), lambda: has_started(short / "head"))
        running.callback(kill_with_children, process)
        running.callback(lambda: [kill_with_children(node) for node in cluster.nodes])
        yield cluster


@pytest.fixture(scope="module")
def cluster(head: Cluster) -> Cluster:
    """The cluster with two nodes."""
    while sum(node.poll() is None for node in head.nodes) < 2:
        head.add_node()
    return head


def has_started(folder: Path) -> bool:
    """Whether `ray start` has ended its work; the nodes then run in it."""
    return "Ray runtime started" in (folder / "printed").read_text()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """A folder that all nodes see, with 240 crops of a photo."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(240):
        top, left = 7 * number % 256, 5 * number % 256
        pixels = np.ascontiguousarray(astronaut[top : top + 256, left : left + 256])
        (folder / f"{number:03}.jpg").write_bytes(to_file(pixels, quality=92))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """A folder of 120 photos of 3 megapixels, which take so long that a new node finds some to do."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(120):
        window = astronaut[number : number + 300, 2 * (number % 50) : 2 * (number % 50) + 400]
        (folder / f"{number:03}.jpg").write_bytes(to_file(cv2.resize(window, (2000, 1500)), quality=85))
    return folder


def ingested(uri: str) -> dict[str, list[dict[str, object]]]:
    """Everything that a store holds of its photos, by role, in the order of their ids."""
    store = shards.open_store(uri)
    return {
        role: sorted(
            (row for split in ("train", "test") for row in store.photos(role, split)), key=lambda row: row["photo_id"]
        )
        for role in shards.ROLES
    }


def say(text: str) -> None:
    print(f"{time.strftime('%X')} {text}", flush=True)


def test_a_command_says_that_it_waits_for_machines_and_begins_when_one_comes(head: Cluster, photos: Path) -> None:
    command = ("ingest", str(photos), "--role", "input", "--to", str(head.folder / "waited"), "--long-side", "128")
    process = head.begin(*command, until=lambda: "has no CPUs yet" in head.printed())
    head.add_node()
    head.end(process)
    assert "240 added" in head.printed()


def test_nodes_are_lost_and_every_stage_ends_with_the_bytes_of_an_undisturbed_run(
    cluster: Cluster, photos: Path, archive: Path, object_store: local.ObjectStore
) -> None:
    calm, stormy = (storage.join(object_store.uri, "cluster", name) for name in ("calm", "stormy"))
    sources = ("--role", "input", "--long-side", "128")
    natural = ("ingest", str(photos), "--role", "natural", "--long-side", "128")
    cluster.run("ingest", str(photos), *sources, "--to", calm)
    cluster.run(*natural, "--to", calm)
    said = cluster.run("doctor", calm, "--deployment", "--json", code=exit_codes.RUN_FAILED)
    found = json.loads(said)["findings"]
    # The embedded S3 server knows no conditional writes, and no service runs here whose keys could be checked.
    assert {each["check"] for each in found if each["status"] == "failure"} == {"locks", "API keys of the service"}
    assert any(each["check"] == "machines" and each["found"].startswith("3 answered") for each in found)

    process = cluster.begin(
        *("ingest", str(photos), *sources, "--to", stormy), until=lambda: cluster.is_at_work(cluster.oldest())
    )
    cluster.lose_a_node()
    cluster.end(process)
    cluster.run(*natural, "--to", stormy)
    assert ingested(stormy) == ingested(calm)

    cluster.run("train", calm, *_TRAIN, "--workers", "2", "--run", "calm")
    process = cluster.begin(
        *("train", calm, *_TRAIN, "--workers", "2", "--run", "stormy"),
        until=lambda: len(runs.list_checkpoints(storage.join(calm, "runs", "stormy"))) >= 2,
    )
    cluster.lose_a_node()
    cluster.end(process)
    expected, weights = (
        runs.read_checkpoint(storage.join(calm, "runs", name), _STEPS).tensors for name in ("calm", "stormy")
    )
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())

    targets = [cluster.folder / name for name in ("calm", "stormy")]
    model = ("--model", "models:/naturaltone/1")
    cluster.run("enhance", str(archive), str(targets[0]), *model)
    process = cluster.begin(
        *("enhance", str(archive), str(targets[1]), *model),
        until=lambda: cluster.is_at_work(cluster.oldest()) and any(targets[1].glob("*.jpg")),
    )
    cluster.lose_a_node()
    wait_until(lambda: process.poll() is not None or cluster.is_at_work(cluster.nodes[-1]))
    assert process.poll() is None, "it ended before it spread to the new node"
    cluster.end(process)
    outputs = [{path.name: path.read_bytes() for path in target.glob("*.jpg")} for target in targets]
    assert len(outputs[0]) == 120 and outputs[1] == outputs[0]


def test_a_slot_that_is_killed_while_it_trains_goes_on_and_a_service_follows_it_and_its_rollback(
    cluster: Cluster, photos: Path
) -> None:
    """The store is a folder that all nodes see: the embedded S3 server cannot keep two machines apart."""
    folder = cluster.folder / "slots"
    (folder / "photos").mkdir(parents=True)
    names = sorted(path.name for path in photos.iterdir())

    def arrive(first: int, end: int) -> None:
        for name in names[first:end]:
            shutil.copy(photos / name, folder / "photos" / name)

    arrive(0, 160)
    (folder / "retrain.toml").write_text(
        'store = "store"\n[ingest]\ninputs = ["photos"]\nnatural = ["photos"]\nlong_side = 128\n[train]\nrecipe = "smoke"\n'
        f"workers = 2\nset = {{ steps = {_STEPS}, checkpoint_every = {_EVERY} }}\n"
    )
    slot = ("retrain", str(folder / "retrain.toml"), "--slot")
    said = cluster.run(*slot, "1")
    assert cluster.run(*slot, "1") == said, "a finished slot does nothing"
    assert state_of(folder, "1")["start"] == "bundle", "the champion's run is in another store"
    make_champion(cluster, model_registry.versions()[0].version)

    arrive(160, 240)
    process = cluster.begin(*slot, "2", until=lambda: runs.list_checkpoints(str(folder / "store/runs/nightly-2")))
    kill_with_children(process)
    cluster.run(*slot, "2")
    state = state_of(folder, "2")
    assert tuple(state["seconds"]) == ("ingest", "plan", "train", "gate", "promote", "report")
    assert state["start"] == "checkpoint"
    assert shards.open_store(str(folder / "store")).count("input") == 240

    newest = model_registry.versions()[0].version
    assert registry.load_model(f"models:/naturaltone/{newest}")[0].description["lineage"]["store"] == str(
        folder / "store"
    )
    make_champion(cluster, newest)
    before = promotions.history()[-1].previous
    with serving(folder, cluster.environment | {"RAY_ADDRESS": cluster.head}, "--replicas", "1") as served:
        wait_for_version(served, newest)
        begun = time.monotonic()
        cluster.run("models", "rollback", "--why", "the test's word")
        wait_for_version(served, str(before))
        say(f"rolled back in {time.monotonic() - begun:.1f} s")
        cluster.run("models", "promote", newest, "--force", "--why", "the test's word")
        begun = time.monotonic()
        wait_for_version(served, newest)
        say(f"followed the promotion in {time.monotonic() - begun:.1f} s")


def state_of(folder: Path, slot: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"store/slots/nightly/{slot}.json").read_text()))


def make_champion(cluster: Cluster, version: str) -> None:
    """Promote a version that the gate has not promoted itself: so short a training may make anything."""
    if promotions.champion() != version:
        cluster.run("models", "promote", version, "--force", "--why", "the test's word")
    assert promotions.champion() == version


def wait_for_version(served: Served, version: str) -> None:
    wait_until(lambda: str(served.model()["version"]).startswith(f"naturaltone/{version}-"))
