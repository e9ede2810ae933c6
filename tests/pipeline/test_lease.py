"""One process holds a lock: a second one is told which, a dead one does not block, and one that loses it is told."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import psutil
import pytest

from naturaltone.infra import local
from naturaltone.pipeline import lease, s3, storage
from naturaltone.pipeline.listing import list_files
from tests.fault_proxy import Faults, fault_proxy

_HOLDER = """
import sys, time
from naturaltone.pipeline import lease
with lease.hold(sys.argv[1], what="the folder"):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(uri: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for tenths of seconds instead of seconds."""
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "_EXPIRE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "_SURE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "_WATCH_SECONDS", 0.1)


@pytest.fixture(params=["disk", "S3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A lock on a disk, and one on a server with conditional writes."""
    folder = str(tmp_path) if request.param == "disk" else request.getfixturevalue("conditional_s3")
    return storage.join(folder, "photos", "lock.json")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks that were taken before seem to be held by another machine."""
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    yield


def test_a_second_process_is_refused_at_once_and_told_which_is_first_until_the_first_dies(uri: str) -> None:
    process = start_holder(uri)
    started = time.monotonic()
    with pytest.raises(
        storage.StorageError, match=rf"the folder: process {process.pid} on .* \(since 20.*writing there"
    ):
        with lease.hold(uri, what="the folder"):
            pass
    assert time.monotonic() - started < lease._WATCH_SECONDS
    process.kill()
    process.wait()
    with lease.hold(uri, what="the folder") as held:
        assert json.loads(storage.read_bytes(uri))["process"] == os.getpid()
        held.check()
    with lease.hold(uri, what="the folder"):
        pass


def test_a_holder_on_another_machine_is_watched_and_keeps_the_lock_if_it_is_alive(
    conditional_s3: str, quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = storage.join(conditional_s3, "lock.json")
    with lease.hold(uri, what="the folder"):
        monkeypatch.setattr(lease, "_machine", lambda: "another machine")
        with caplog.at_level(logging.WARNING), pytest.raises(storage.StorageError, match="is writing there"):
            with lease.hold(uri, what="the folder"):
                pass
    assert "checking whether that process is alive" in caplog.text


def test_a_holder_on_another_machine_that_is_silent_loses_the_lock_whatever_its_clock_says(
    conditional_s3: str, quick: None, elsewhere: None
) -> None:
    uri = storage.join(conditional_s3, "lock.json")
    s3.write(uri, json.dumps({"process": 1, "host": "dead", "since": "3026", "token": "t"}).encode())
    started = time.monotonic()
    with lease.hold(uri, what="the folder"):
        assert json.loads(s3.read(uri))["process"] == os.getpid()
    assert time.monotonic() - started >= lease._EXPIRE_SECONDS


def test_a_process_that_lost_the_lock_is_told_and_does_not_delete_it(conditional_s3: str, quick: None) -> None:
    uri = storage.join(conditional_s3, "lock.json")
    with lease.hold(uri, what="the folder") as held:
        held.check()
        other = json.dumps({"process": 7, "host": "other", "since": "now", "token": "other"}).encode()
        s3.write(uri, other)
        deadline = time.monotonic() + 10
        with pytest.raises(lease.LeaseLost, match=r"the folder: this run lost its lock \(now process 7 on other"):
            while time.monotonic() < deadline:
                held.check()
                time.sleep(0.05)
    assert s3.read(uri) == other, "not deleted: the other process has it"


def test_a_process_that_was_asleep_checks_the_lock_before_it_writes(
    conditional_s3: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewing thread sleeps with the machine, so the first check after the sleep must ask the server."""
    uri = storage.join(conditional_s3, "lock.json")
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 60.0)
    with lease.hold(uri, what="the folder") as held:
        time.sleep(lease._EXPIRE_SECONDS + 0.2)
        held.check()  # nobody took the lock: the process may continue
        s3.write(uri, json.dumps({"token": "other"}).encode())
        time.sleep(lease._SURE_SECONDS + 0.2)  # it asks before others may take the lock
        with pytest.raises(lease.LeaseLost):
            held.check()


def test_an_answer_that_comes_late_does_not_make_a_renewal_younger(
    conditional_s3: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others count the 90 seconds from when the renewal arrived at the server."""
    uri = storage.join(conditional_s3, "lock.json")
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 60.0)
    with lease.hold(uri, what="the folder") as held, monkeypatch.context() as patched:
        assert isinstance(held, lease._ObjectLease)
        write_if = s3.write_if

        def write_and_answer_late(*arguments: Any, **options: Any) -> str:
            etag = write_if(*arguments, **options)
            s3.write(uri, json.dumps({"token": "other"}).encode())
            time.sleep(lease._SURE_SECONDS + 0.2)
            return etag

        patched.setattr(s3, "write_if", write_and_answer_late)
        held.renew()
        with pytest.raises(lease.LeaseLost):
            held.check()


@pytest.mark.parametrize("taken", [False, True])
def test_while_the_server_is_away_only_a_write_is_stopped_until_the_lock_was_taken(
    taken: bool, conditional_s3: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, upstream = storage.join(conditional_s3, "lock.json"), os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    weather: Any = SimpleNamespace(share=0.0, kinds=("slow_down",), seed=1, stall_seconds=0.0)
    with fault_proxy(upstream, weather) as proxy, local.environment({"AWS_ENDPOINT_URL": proxy.url}):
        with lease.hold(uri, what="the folder") as held:
            weather.share = 1.0
            if taken:
                bucket, key = s3.split(uri)
                # A session of its own: boto3's default one keeps the keys of whichever test used it first.
                other = boto3.session.Session().client("s3", endpoint_url=upstream)
                other.put_object(Bucket=bucket, Key=key, Body=b'{"token": "other"}')
            time.sleep(lease._EXPIRE_SECONDS + 0.2)
            held.check_not_taken()  # nobody can know that yet
            with pytest.raises(OSError, match="the folder: the storage server did not confirm the lock"):
                held.check()
            weather.share = 0.0
            with pytest.raises(lease.LeaseLost) if taken else contextlib.nullcontext():
                held.check()
            with pytest.raises(lease.LeaseLost) if taken else contextlib.nullcontext():
                held.check_not_taken()


@pytest.mark.parametrize("error", [psutil.AccessDenied, psutil.NoSuchProcess])
def test_a_living_process_that_the_system_hides_keeps_its_lock(
    error: type[psutil.Error], conditional_s3: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What psutil says of other users' processes if /proc is mounted with hidepid=1, and with hidepid=2."""
    visible = psutil.Process

    def process(pid: int | None = None) -> psutil.Process:
        if pid is not None:
            raise error(pid)
        return visible()

    monkeypatch.setattr(psutil, "Process", process)
    uri = storage.join(conditional_s3, "lock.json")
    with lease.hold(uri, what="the folder"), pytest.raises(storage.StorageError, match="is writing there"):
        with lease.hold(uri, what="the folder"):
            pass


def test_a_lost_answer_does_not_make_a_process_refuse_itself(conditional_s3: str) -> None:
    upstream = os.environ["AWS_ENDPOINT_URL"]
    with fault_proxy(upstream, Faults(share=0.3, kinds=("truncate",), seed=1)) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            for number in range(12):
                with lease.hold(storage.join(conditional_s3, f"lock-{number}.json"), what="it") as held:
                    held.check()
    assert proxy.injected["truncate"] > 5


def test_only_one_of_many_that_start_at_once_gets_the_lock(conditional_s3: str) -> None:
    uri, held, refused = storage.join(conditional_s3, "lock.json"), [], []
    together, done = threading.Barrier(6), threading.Event()

    def take() -> None:
        together.wait()
        try:
            with lease.hold(uri, what="it"):
                held.append(1)
                done.wait(30)
        except storage.StorageError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(held) + len(refused) < 6:
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)


def test_a_server_without_conditional_writes_is_named_once(
    object_store: local.ObjectStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_looked_at", set())
    uri = storage.join(object_store.uri, "leased/lock.json")
    with local.environment({lease.PRIVATE_SERVER_VARIABLE: None}), caplog.at_level(logging.WARNING):
        for _ in range(2):
            with lease.hold(uri, what="it"):
                pass
    assert caplog.text.count("does not support conditional writes") == 1
    assert not storage.exists(uri)
    assert not lease.is_safe(uri)


def test_a_server_with_conditional_writes_needs_no_warning(
    conditional_s3: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_looked_at", set())
    with caplog.at_level(logging.WARNING), lease.hold(storage.join(conditional_s3, "lock.json"), what="it"):
        pass
    assert not caplog.text
    assert lease.is_safe(storage.join(conditional_s3, "lock.json")) and lease.is_safe("lock.json")
    assert not [file for file in list_files(conditional_s3) if "lock.json" in file.relative]
