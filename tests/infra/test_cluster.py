"""A cluster that does not let us in is named at once, with the remedy. Ray's real head service answers these tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from naturaltone.infra import cluster, local
from naturaltone.pipeline.errors import RunFailed, UserError

GCS = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
Start = Callable[[str | None], str]


@pytest.fixture
def start(tmp_path: Path, clean_environment: dict[str, str]) -> Iterator[Start]:
    """`start(token)` starts the head's service, which asks for this token; None: for no token. Returns its address."""
    processes = []

    def run(token: str | None) -> str:
        port = local.free_port()
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        options = [f"--gcs_server_port={port}", "--node-ip-address=127.0.0.1", "--session-name=test"]
        folders = [f"--session-dir={tmp_path}", f"--log_dir={tmp_path}"]
        with open(tmp_path / "printed", "ab") as printed:
            process = subprocess.Popen(
                [str(GCS), *options, *folders, f"--node-id={'ab' * 28}", "--config_list=e30="],  # {} in base 64
                env={**clean_environment, **own},
                stdout=printed,
                stderr=subprocess.PIPE,
            )
        processes.append(process)
        local.wait_for_port(port, process)
        return f"127.0.0.1:{port}"

    yield run
    for process in processes:
        process.send_signal(signal.SIGKILL)  # it has nothing to keep
        process.communicate()


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token in the environment or in the home, and the environment restored afterwards."""
    for name in (cluster.TOKEN, cluster.TOKEN_FILE, cluster.AUTH_MODE):
        monkeypatch.setenv(name, "set, so that it is restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_missing_token_is_named_at_once_with_the_remedy(start: Start) -> None:
    with pytest.raises(
        UserError, match="asks for a token, and this machine has none; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    ):
        cluster.enter(start(secrets.token_hex(32)))


def test_a_wrong_token_is_refused_and_its_source_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = start(secrets.token_hex(32))
    monkeypatch.setenv(cluster.TOKEN, secrets.token_hex(32))
    with pytest.raises(UserError, match="refuses the token of RAY_AUTH_TOKEN;"):
        cluster.enter(address)
    monkeypatch.delenv(cluster.TOKEN)
    (tmp_path / "token").write_text("other")
    monkeypatch.setenv(cluster.TOKEN_FILE, str(tmp_path / "token"))
    with pytest.raises(UserError, match=f"refuses the token of {tmp_path}/token;"):
        cluster.enter(address)


@pytest.mark.parametrize("source", ["variable", "file", "home"])
def test_a_token_is_sent_without_being_asked_to_by_another_variable(
    source: str, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = secrets.token_hex(32)
    address = start(token)
    if source == "variable":
        monkeypatch.setenv(cluster.TOKEN, token)
    else:
        path = tmp_path / ("token" if source == "file" else ".ray/auth_token")
        path.parent.mkdir(exist_ok=True)
        path.write_text(token + "\n")
        if source == "file":
            monkeypatch.setenv(cluster.TOKEN_FILE, str(path))
    cluster.enter(address)
    assert os.environ[cluster.AUTH_MODE] == "token"


def test_an_open_cluster_is_entered_without_a_token(start: Start) -> None:
    cluster.enter(start(None))
    assert cluster.AUTH_MODE not in os.environ


def test_nothing_at_the_address_is_said_before_ray_tries_for_a_minute() -> None:
    with pytest.raises(RunFailed, match=r"no Ray cluster answers there \(.*refused\); start its head"):
        cluster.enter(f"127.0.0.1:{local.free_port()}")


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "head", "head:port"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="must be the HOST:PORT of the cluster's head"):
        cluster.enter(address)


def test_auto_is_left_to_ray() -> None:
    cluster.enter("auto")
