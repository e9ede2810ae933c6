"""`naturaltone serve` finds a mistake before Ray starts, and never opens itself to other machines without a word."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.infra.commands.serve import _is_loopback
from naturaltone.serving.service import settings

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (settings.API_KEYS, settings.NO_AUTH, settings.RATE_LIMIT, settings.LOOK_SECONDS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve(refused: Refused, bundle_folder: Path) -> Refused:
    """`serve` with the tiny model on a free port, and these arguments."""

    def run(*arguments: str) -> str:
        return refused(
            "serve", "--model", str(bundle_folder), "--port", str(local.free_port()), "--metrics", "off", *arguments
        )

    return run


def test_serve_refuses_a_port_in_use(refused: Refused, bundle_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", "--model", str(bundle_folder), "--port", str(port))
    assert f"--port {port}: cannot listen on this address" in line and "choose another port" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "0", "example.org"])
def test_other_machines_are_not_let_in_without_keys(host: str, serve: Refused) -> None:
    line = serve("--host", host)
    assert settings.API_KEYS in line and "--no-auth" in line


def test_a_variable_that_is_not_1_opens_nothing(serve: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.NO_AUTH, "0")
    assert "--no-auth" in serve("--host", "0.0.0.0")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("127.0.0.1.example.org", False)],
)
def test_only_addresses_of_this_machine_count_as_such(host: str, is_loopback: bool) -> None:
    assert _is_loopback(host) == is_loopback


@pytest.mark.parametrize("number", ["0", "-1", "1000"])
def test_a_bad_number_of_replicas_is_refused(number: str, serve: Refused) -> None:
    assert f"--replicas {number}: must be between 1 and" in serve("--replicas", number)


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_a_bad_address_for_metrics_is_refused(address: str, serve: Refused) -> None:
    assert re.search(rf"--metrics '?{re.escape(address)}", serve("--metrics", address))


@pytest.mark.parametrize(("host", "given"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_metrics_on_a_port_in_use_are_refused(host: str, given: str, serve: Refused) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        port = taken.getsockname()[1]
        assert f"--metrics {host}:{port}: cannot listen" in serve("--metrics", f"{given}:{port}")


@pytest.mark.parametrize("rate", ["-1", "0.5", "nan", "inf"])
def test_a_bad_rate_is_refused(rate: str, serve: Refused) -> None:
    assert "must be a number of requests a minute" in serve(f"--rate-limit={rate}")


@pytest.mark.parametrize("seconds", ["0", "0.01", "-5", "soon", "nan"])
def test_a_bad_time_between_looks_is_refused(seconds: str, serve: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.LOOK_SECONDS, seconds)
    assert f"{settings.LOOK_SECONDS} '{seconds}'" in serve()


@pytest.mark.parametrize("most", ["0", "-1", "1.5", "many", "²"])
def test_a_bad_number_of_photos_inside_is_refused(most: str, serve: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.MOST_INSIDE, most)
    assert f"{settings.MOST_INSIDE} '{most}'" in serve()


def test_a_key_that_nobody_hashed_is_refused_and_not_shown(serve: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.API_KEYS, "my-plain-secret")
    line = serve("--host", "0.0.0.0")
    assert "SHA-256" in line and "my-plain-secret" not in line


@pytest.mark.parametrize("option", ["--model", "--compare"])
def test_a_model_that_is_not_there_is_refused_before_ray_starts(option: str, serve: Refused, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in serve(option, str(tmp_path / "none"))
