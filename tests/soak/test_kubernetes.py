"""The commands of the Kubernetes manifests, with their arguments and variables, against real parts of one machine.

A local cluster by `ray start`, MLflow on PostgreSQL and an S3 server with conditional writes take the places of the pods.
Only addresses, folders and sizes are replaced. RustFS, the S3 server of the manifests, is not to be had here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import yaml

from naturaltone.infra import local, rayjob
from naturaltone.serving.service import settings
from naturaltone.training import model_registry
from tests import postgresql
from tests.infra.kubernetes.manifests import Manifest, environment, find, pods, ray_cluster, rendered
from tests.infra.kubernetes.test_commands import SUBMIT
from tests.processes import kill_with_children, start_until_ready
from tests.soak.test_deploy import wait_until

pytestmark = pytest.mark.timeout(1200)

OBJECTS = rendered("kind")  # the overlay with secrets
BIN = Path(sys.executable).parent
SLOT = "2026-11-24"


@dataclass
class Place:
    """Where the parts run instead of in pods.

    replaced: what texts of the manifests become here. base: variables that every program of this machine has.
    """

    folder: Path
    replaced: dict[str, str]
    base: dict[str, str]
    dashboard: str = ""

    def here(self, text: str) -> str:
        for before, after in self.replaced.items():
            text = text.replace(before, after)
        return text

    def environment(self, container: Manifest) -> dict[str, str]:
        found = environment(container, OBJECTS, OBJECTS)
        return self.base | {name: self.here(value) for name, value in found.items()}

    def submit(self, name: str, entrypoint: str) -> tuple[int, str]:
        """Run an entrypoint as KubeRay's submitter does; returns the exit code of the job and what it printed."""
        [container] = find(OBJECTS, "RayJob", name)["spec"]["submitterPodTemplate"]["spec"]["containers"]
        line = SUBMIT.format(address=self.dashboard, entrypoint=self.here(entrypoint).strip())
        command = ["/bin/bash", "-ce", "--", line]
        variables = self.environment(container) | ray_token()
        done = subprocess.run(command, env=variables, cwd=self.folder, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr


def containers(part: str) -> list[Manifest]:
    [pod] = [pod for pod in pods(OBJECTS) if pod.labels.get("naturaltone.io/part") == part]
    return pod.containers


def ray_token() -> dict[str, str]:
    """What KubeRay adds to the variables of a container of Ray, by `authOptions`."""
    name = ray_cluster(find(OBJECTS, "RayService", "naturaltone"))["authOptions"]["secretName"]
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": find(OBJECTS, "Secret", name)["stringData"]["auth_token"]}


def get(
    address: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes]:
    host, _, port = address.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("POST" if body else "GET", path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(address: str, path: str) -> bool:
    with contextlib.suppress(OSError):
        return get(address, path)[0] == 200
    return False


def program(command: list[str], variables: Mapping[str, str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    with open(folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(command, env=dict(variables), cwd=folder, stdout=log, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def started(
    command: list[str], variables: Mapping[str, str], folder: Path, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program with its children, until the context ends."""
    process = program(command, variables, folder, name)
    try:
        yield process
    finally:
        kill_with_children(process)


@pytest.fixture
def place(
    tmp_path: Path, clean_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """An S3 server, PostgreSQL and MLflow, each by the command of its container where it can be had."""
    written = tmp_path_factory.mktemp("written")  # what is mounted at /tmp
    s3_port, mlflow_port = local.free_port(), local.free_port()
    base = {
        **{name: value for name, value in clean_environment.items() if name in ("LANG", "PYTHONPATH", "TMPDIR")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    replaced = {
        "http://s3:9000": f"http://127.0.0.1:{s3_port}",
        "--host=0.0.0.0": "--host=127.0.0.1",
        ":5000": f":{mlflow_port}",
        "--port=5000": f"--port={mlflow_port}",
        "http://mlflow": "http://127.0.0.1",
        "/tmp": str(written),
        "/etc/naturaltone": str(tmp_path / "etc"),
        "0.0.0.0:9464": f"127.0.0.1:{local.free_port()}",
        # Sizes: the recipe of seconds instead of an hour's.
        "--recipe small": "--recipe smoke",
        "steps=2000": "steps=12",
    }
    place = Place(tmp_path, replaced, base)
    s3_command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_port)]
    [database] = containers("postgresql")
    program, *arguments = database["args"]
    assert program == "postgres"
    variables = environment(database, OBJECTS, OBJECTS)
    bucket, mlflow = containers("mlflow")
    with (
        started(s3_command, base, tmp_path, "s3"),
        postgresql.running(arguments, user=variables["POSTGRES_USER"], password=variables["POSTGRES_PASSWORD"]) as at,
    ):
        assert variables["POSTGRES_DB"] == variables["POSTGRES_USER"]
        replaced["postgresql:5432"] = at
        wait_until(lambda: answers(f"http://127.0.0.1:{s3_port}", "/"), 60)
        for _ in range(2):  # it runs at each start of MLflow's pod
            command = [*bucket["command"], *bucket["args"]]
            subprocess.run(command, env=place.environment(bucket), cwd=tmp_path, check=True, timeout=120)
        command = [place.here(each) for each in [*mlflow["command"], *mlflow["args"]]]
        with started(command, place.environment(mlflow), tmp_path, "mlflow") as process:
            address = f"http://127.0.0.1:{mlflow_port}"
            probe = mlflow["readinessProbe"]["httpGet"]["path"]
            wait_until(lambda: process.poll() is not None or answers(address, probe), 300)
            assert process.poll() is None, (tmp_path / "mlflow.log").read_text()
            experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
            assert get(address, experiments, {"Host": f"mlflow:{mlflow_port}"})[0] == 200
            assert get(address, experiments, {"Host": f"evil.example:{mlflow_port}"})[0] == 403
            yield place


@pytest.fixture
def cluster(place: Place) -> Iterator[Place]:
    """`ray start` with the variables of the service's head, which are those of a job's head and more."""
    service = ray_cluster(find(OBJECTS, "RayService", "naturaltone"))
    [head] = service["headGroupSpec"]["template"]["spec"]["containers"]
    [job_head] = ray_cluster(find(OBJECTS, "RayJob", "train"))["headGroupSpec"]["template"]["spec"]["containers"]
    variables = place.environment(head)
    assert place.environment(job_head).items() <= variables.items()
    keys = place.folder / "etc" / "keys" / "keys.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text(find(OBJECTS, "Secret", "naturaltone-service")["stringData"]["keys.txt"])
    dashboard, agent = local.free_port(), local.free_port()
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "4", "--node-ip-address", "127.0.0.1"),
        *("--port", str(local.free_port()), "--dashboard-port", str(dashboard)),
        *("--ray-client-server-port", str(local.free_port()), "--dashboard-agent-listen-port", str(agent)),
    ]
    place.dashboard = f"http://127.0.0.1:{dashboard}"
    health = head["readinessProbe"]["httpGet"]["path"]

    def start() -> subprocess.Popen[bytes]:
        return program(command, variables | ray_token(), place.folder, "ray")

    def is_ready() -> bool:
        return answers(f"http://127.0.0.1:{agent}", health) and answers(place.dashboard, "/api/gcs_healthz")

    process = start_until_ready(start, is_ready)
    try:
        assert get(place.dashboard, "/api/jobs/")[0] in (401, 403), "without the token, nobody gets in"
        yield place
    finally:
        kill_with_children(process)


def test_every_command_of_the_manifests_runs(
    cluster: Place, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = containers_of_job("train")
    for name, value in cluster.environment(head).items():
        if name.startswith(("AWS_", "MLFLOW_")):
            monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    files = [path for path in photo_folder.rglob("*") if path.is_file()]
    for folder in ("inputs", "natural", "archive"):
        for path in files:
            s3.put_object(Bucket="naturaltone", Key=f"photos/{folder}/{path.name}", Body=path.read_bytes())
    s3.put_object(Bucket="naturaltone", Key="photos/inputs/broken.jpg", Body=files[0].read_bytes()[:200])

    jobs = {name: find(OBJECTS, "RayJob", name)["spec"]["entrypoint"] for name in ("ingest-inputs", "ingest-natural")}
    for name, entrypoint in jobs.items():
        code, printed = cluster.submit(name, entrypoint)
        assert code == 0 and f"{len(files)} added" in printed, printed
        assert ("1 rejected" in printed) == (name == "ingest-inputs"), "a rejected photo does not fail the job"

    code, printed = cluster.submit("train", find(OBJECTS, "RayJob", "train")["spec"]["entrypoint"])
    assert code == 0 and "model models:/naturaltone" in printed, printed
    assert [each.version for each in model_registry.versions()] == ["1"]

    retrain(cluster)
    slot = json.loads(s3.get_object(Bucket="naturaltone", Key=f"store/slots/nightly/{SLOT}.json")["Body"].read())
    assert slot["outcome"] and slot["name"] == f"nightly-{SLOT}"
    assert slot["start"] == "checkpoint", "of the champion's run"

    code, printed = cluster.submit("enhance", find(OBJECTS, "RayJob", "enhance")["spec"]["entrypoint"])
    assert code == 0 and "by naturaltone/" in printed, printed
    found = s3.list_objects_v2(Bucket="naturaltone", Prefix="enhanced/")["Contents"]
    assert {Path(each["Key"]).name for each in found} >= {path.name for path in files}

    code, printed = cluster.submit("train", "naturaltone train s3://naturaltone/missing --out /tmp/model")
    assert code != 0 and "missing" in printed, "a job that fails is seen as failed"
    serve(cluster, (photo_folder / "01.jpg").read_bytes())


def containers_of_job(name: str) -> Manifest:
    [head] = ray_cluster(find(OBJECTS, "RayJob", name))["headGroupSpec"]["template"]["spec"]["containers"]
    return dict(head)


def retrain(cluster: Place) -> None:
    """The slot's RayJob as the CronJob's pod makes it, with the configuration of the ConfigMap; twice."""
    text = find(OBJECTS, "ConfigMap", "retrain")["data"]["retrain.toml"]
    for before, after in {
        'recipe = "small"': 'recipe = "smoke"',
        "steps = 2000": "steps = 12",
        "= 100\n": "= 0\n",
    }.items():
        assert before in text
        text = text.replace(before, after)
    (cluster.folder / "etc" / "retrain.toml").write_text(text)
    template = find(OBJECTS, "RayJob", "retrain")
    entrypoint = rayjob.rayjob_of(template, SLOT, {"name": "retrain-1", "uid": "1"})["spec"]["entrypoint"]
    assert SLOT in entrypoint
    printed = []
    for _ in range(2):
        code, text = cluster.submit("retrain", entrypoint)
        assert code == 0, text
        printed.append([line for line in text.splitlines() if f"slot nightly-{SLOT}" in line])
    assert printed[0] == printed[1] != [], "a retry of a finished slot does nothing"


def serve(cluster: Place, photo: bytes) -> None:
    """The RayService's configuration; KubeRay sends it to the dashboard, as `serve deploy` does."""
    service = find(OBJECTS, "RayService", "naturaltone")
    document = yaml.safe_load(service["spec"]["serveConfigV2"])
    port = local.free_port()
    document["http_options"] |= {"host": "127.0.0.1", "port": port}
    path = cluster.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    [worker] = ray_cluster(service)["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    variables = cluster.environment(worker)
    command = [str(BIN / "serve"), "deploy", "--address", cluster.dashboard, str(path)]
    subprocess.run(
        command, env=variables | ray_token(), cwd=cluster.folder, check=True, capture_output=True, timeout=120
    )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(address, "/readyz"))
    assert get(address, worker["readinessProbe"]["httpGet"]["path"])[0] == 200, "the probe has no key"
    assert get(address, "/v1/enhance", body=photo)[0] == 401
    assert get(address, "/v1/enhance", {"Authorization": "Bearer example-key"}, photo)[0] == 200
    status, text = get(f"http://{variables[settings.METRICS]}", "/metrics")
    assert status == 200 and b"naturaltone_" in text
