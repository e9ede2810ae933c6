"""The services of infra/compose.yaml start: each command as it stands there, with its user, variables, names and ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import lease
from tests.compose import ours, project
from tests.containers import Container, containers

pytestmark = pytest.mark.timeout(600)

_SECONDS = 240.0  # the longest that a service may take to start; it takes a tenth on a quiet machine


@pytest.fixture
def machines() -> Iterator[dict[str, Container]]:
    with containers(["s3", "bucket", "postgresql", "mlflow", "head", "worker", "worker-2", "service"]) as made:
        yield made


def wait_for(container: Container, test: Sequence[str], environment: Mapping[str, str]) -> None:
    """Wait until the health check succeeds, as `depends_on` does."""
    deadline = time.monotonic() + _SECONDS
    assert test[0] == "CMD"
    while container.run(test[1:], environment):
        assert time.monotonic() < deadline, container.log.read_text()
        time.sleep(0.5)


def start_s3(container: Container, folder: Path) -> None:
    """The embedded S3 server in place of RustFS, at its port and with its keys."""
    variables = project()["services"]["s3"]["environment"]
    keys = f'"{variables["RUSTFS_ACCESS_KEY"]},{variables["RUSTFS_SECRET_KEY"]}"'
    command = [local._rclone(), "serve", "s3", str(folder), "--addr", variables["RUSTFS_ADDRESS"], "--config", ""]
    container.start_as_root([*command, "--vfs-cache-mode", "off"], {**os.environ, "RCLONE_AUTH_KEY": keys})


def start_postgresql(container: Container, folder: Path) -> None:
    """Debian's PostgreSQL in place of its image. As the image does, it makes user and database, and asks for the password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("MLflow's database takes PostgreSQL")
    each = project()["services"]["postgresql"]
    variables = each["environment"]
    shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(variables["POSTGRES_PASSWORD"])
    as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    create = [*as_user, found[-1] / "initdb", "-D", folder / "data", "-U", variables["POSTGRES_USER"]]
    safe = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={folder}/password"]
    subprocess.run([*create, *safe], check=True, capture_output=True)
    with open(folder / "data" / "pg_hba.conf", "a") as rules:
        rules.write("host all all all scram-sha-256\n")  # as the image does
    server = [*as_user, str(found[-1] / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-h", "*"]
    container.start_as_root(server, {**os.environ, "PGPORT": "5432"})
    check = [str(found[-1] / "pg_isready"), *each["healthcheck"]["test"][2:]]
    wait_for(container, ["CMD", *check], {})
    database = [
        str(found[-1] / "createdb"),
        "-h",
        str(folder),
        "-U",
        variables["POSTGRES_USER"],
        variables["POSTGRES_DB"],
    ]
    subprocess.run([*as_user, *database], check=True, capture_output=True)


def test_every_service_starts_and_a_command_runs_on_the_cluster(
    machines: dict[str, Container], tmp_path: Path, photo_folder: Path
) -> None:
    begun = time.monotonic()
    services = ours()
    for name in ("head", "worker", "worker-2"):  # as the folder that Compose mounts in each
        shutil.copytree(photo_folder, machines[name].own / "photos")
        (machines[name].own / "photos").chmod(0o755)
    photos = str(machines["head"].place / "photos")
    (tmp_path / "s3").mkdir()
    start_s3(machines["s3"], tmp_path / "s3")
    database = Path(tempfile.mkdtemp(prefix="naturaltone-postgresql-"))
    start_postgresql(machines["postgresql"], database)
    each = services["bucket"]
    deadline = time.monotonic() + 30
    while machines["bucket"].run(each["command"], each["environment"]):
        assert time.monotonic() < deadline, machines["bucket"].log.read_text()
    assert (tmp_path / "s3" / "naturaltone").is_dir()

    def start(name: str, service: str) -> None:
        """Start it and wait for its health. As in Compose, a process that ends starts again."""
        each, container = services[service], machines[name]
        process, deadline = container.start(each["command"], each["environment"]), time.monotonic() + _SECONDS
        while container.run(each["healthcheck"]["test"][1:], each["environment"]):
            assert time.monotonic() < deadline, container.log.read_text()
            if process.poll() is not None:
                process = container.start(each["command"], each["environment"])

    start("mlflow", "mlflow")
    start("head", "head")
    start("worker", "worker")
    start("worker-2", "worker")
    print(f"the cluster has started after {time.monotonic() - begun:.0f} s")

    environment = dict(services["head"]["environment"])
    count = (
        "import ray; ray.init(log_to_driver=False); import json; print(json.dumps([n['Alive'] for n in ray.nodes()]))"
    )
    deadline = time.monotonic() + _SECONDS
    while "[true, true, true]" not in machines["head"].log.read_text():
        assert machines["head"].run(["python", "-c", count], environment) == 0, machines["head"].log.read_text()
        assert time.monotonic() < deadline, machines["worker"].log.read_text()
    # rclone knows no conditional writes, as RustFS does. The variable says that nobody else writes here.
    environment[lease.PRIVATE_SERVER_VARIABLE] = "1"
    ingest = ["naturaltone", "ingest", photos, "--role", "input", "--to", "s3://naturaltone/store"]
    assert machines["head"].run([*ingest, "--long-side", "128"], environment, seconds=200) == 0, machines[
        "head"
    ].log.read_text()
    assert list((tmp_path / "s3" / "naturaltone" / "store").rglob("*.parquet"))
    print(f"ingested after {time.monotonic() - begun:.0f} s")

    machines["service"].start(services["service"]["command"], services["service"]["environment"])
    healthy = "import urllib.request as u; u.urlopen('http://service:8000/healthz', timeout=5)"
    wait_for(machines["bucket"], ["CMD", "python", "-c", healthy], {})
    for target in ("service:9464", "head:8080", "worker:8080"):
        figures = (
            f"import urllib.request as u; print(u.urlopen('http://{target}/metrics', timeout=9).read().decode()[:300])"
        )
        assert machines["bucket"].run(["python", "-c", figures], {}) == 0, machines["bucket"].log.read_text()
    # Through its own name, as the clients call it; the server then writes the artifact to S3 with its own keys.
    script = (
        "import mlflow; mlflow.set_experiment('compose')\n"
        "with mlflow.start_run(): mlflow.log_metric('x', 1.0); mlflow.log_text('of compose', 'note.txt')"
    )
    client = {name: value for name, value in services["service"]["environment"].items() if not name.startswith("AWS_")}
    assert machines["bucket"].run(["python", "-c", script], client) == 0, machines["bucket"].log.read_text()
    assert [path.read_text() for path in (tmp_path / "s3/naturaltone/mlflow").rglob("note.txt")] == ["of compose"]
    print(json.dumps({"seconds": round(time.monotonic() - begun)}))
    shutil.rmtree(database, ignore_errors=True)
