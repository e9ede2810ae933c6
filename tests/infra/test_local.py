"""Servers stop when their context ends, and a wrong port or number of workers is refused before any work."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed, UserError


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_object_store_serves_its_folder_and_is_gone_afterwards(tmp_path: Path) -> None:
    with local.object_store(tmp_path) as store:
        port = int(store.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
        with local.environment(store.environment):
            storage.write_bytes(f"{store.uri}/a/b", b"kept")
            assert storage.read_bytes(f"{store.uri}/a/b") == b"kept"
    assert not listens(port)
    assert (tmp_path / local.BUCKET / "a" / "b").read_bytes() == b"kept"


def test_variables_are_put_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATURALTONE_TEST_SET", "before")
    monkeypatch.delenv("NATURALTONE_TEST_UNSET", raising=False)
    with pytest.raises(RuntimeError), local.environment({"NATURALTONE_TEST_SET": None, "NATURALTONE_TEST_UNSET": "x"}):
        assert "NATURALTONE_TEST_SET" not in os.environ and os.environ["NATURALTONE_TEST_UNSET"] == "x"
        raise RuntimeError
    assert os.environ["NATURALTONE_TEST_SET"] == "before" and "NATURALTONE_TEST_UNSET" not in os.environ


def test_sigterm_ends_like_ctrl_c_and_a_second_one_does_not_stop_the_cleanup() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), local.interruptible():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_an_interrupt_that_other_code_swallows_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare `except:` of a library took a SIGTERM, and a demo went on for ten minutes."""
    monkeypatch.setattr(local, "_AGAIN_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    forever = threading.Event()
    cleaned_up = False
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), local.interruptible():
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGTERM)
            try:
                forever.wait(60)
            finally:
                forever.wait(0.5)  # not interrupted, although the signal comes again
                cleaned_up = True
        assert cleaned_up
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_ray_starts_once_and_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    @contextlib.contextmanager
    def session() -> Iterator[None]:
        said.append("starts")
        yield
        said.append("ends")

    monkeypatch.setattr(local, "ray_session", session)
    with local.ray_when_needed():
        pass
    assert said == []
    with local.ray_when_needed() as start:
        start()
        start()
        assert said == ["starts"]
    assert said == ["starts", "ends"]


def test_a_context_without_a_signal_restores_the_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with local.interruptible():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_port_that_is_taken_is_refused_and_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen on this address"):
            local.check_port("127.0.0.1", port)
    local.check_port("127.0.0.1", local.free_port())
    with pytest.raises(UserError, match="--port 99999"):
        local.check_port("127.0.0.1", 99999)


def test_a_free_port_is_none_that_ray_kubernetes_or_linux_may_take_before_our_server_does() -> None:
    assert all(19_999 < local.free_port() < 30_000 for _ in range(50))


def test_a_free_port_is_not_one_on_which_a_program_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    port = local.free_port()
    monkeypatch.setattr(local, "_PORTS", (port, port + 1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert {local.free_port() for _ in range(20)} == {port + 1}


def test_a_server_that_stops_at_once_is_reported_with_its_message() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such option')"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE) as process,
        pytest.raises(RunFailed, match="stopped: no such option"),
    ):
        local.wait_for_port(local.free_port(), process)


def test_more_workers_than_the_machine_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local, "num_gpus", lambda: 0)
    monkeypatch.setattr(local, "cores", lambda: 2)
    assert local.check_workers(2) is False
    assert local.check_workers((1, 2)) is False
    with pytest.raises(UserError, match="--workers 3: this machine has 2 CPU cores and no GPU; use 1 to 2"):
        local.check_workers((1, 3))
    monkeypatch.setattr(local, "num_gpus", lambda: 1)
    assert local.check_workers(1) is True
    with pytest.raises(UserError, match=r"--workers 2: this machine has 1 GPUs; use 1$"):
        local.check_workers(2)
