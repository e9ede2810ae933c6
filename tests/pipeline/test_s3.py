"""Wrong keys and a missing bucket end a command at once, and a busy server loses nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import figures, lease, s3, storage
from naturaltone.pipeline.listing import list_files
from tests.fault_proxy import Faults, fault_proxy


def test_wrong_keys_and_a_missing_bucket_end_the_command_at_once(
    object_store: local.ObjectStore, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ingest", str(photo_folder), "--role", "input", "--to"]
    assert cli.main([*arguments, "s3://elsewhere/store"]) == exit_codes.WRONG_USAGE
    assert "there is no bucket 'elsewhere'" in capsys.readouterr().err
    with local.environment({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        assert cli.main([*arguments, f"{object_store.uri}/store"]) == exit_codes.WRONG_USAGE
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err


def test_a_busy_server_does_not_look_like_a_missing_bucket_or_object(object_store: local.ObjectStore) -> None:
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    uri = storage.join(object_store.uri, "busy", "object")
    storage.write_bytes(uri, b"content")
    with fault_proxy(endpoint, Faults(share=0.25, kinds=("slow_down", "reset"), seed=5)) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            for _ in range(8):
                storage.check_reachable(uri)
                assert [file.relative for file in list_files(uri.rpartition("/")[0])] == ["object"]
                assert storage.exists(uri) and not storage.exists(uri + "s")
                assert storage.read_bytes(uri) == b"content"
    assert sum(proxy.injected.values()) > 3


def test_a_server_that_refuses_conditions_is_used_without_them_and_named(
    conditional_s3: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_looked_at", set())
    refused = []

    def refuse(params: dict[str, Any], **_: object) -> tuple[object, dict[str, Any]] | None:
        if not {"If-Match", "If-None-Match"} & set(params["headers"]):
            return None
        refused.append(1)
        error = {"Code": "NotImplemented", "Message": "A header implies functionality that is not implemented"}
        return SimpleNamespace(status_code=501), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 501}}

    events = s3.client().meta.events
    events.register("before-call.s3.PutObject", refuse)
    try:
        counter = storage.join(conditional_s3, "counter")
        for _ in range(2):
            storage.update(counter, lambda before: (before or b"") + b"1")
        with caplog.at_level(logging.WARNING), lease.hold(storage.join(conditional_s3, "lock.json"), what="it") as held:
            held.check()
    finally:
        events.unregister("before-call.s3.PutObject", refuse)
    assert storage.read_bytes(counter) == b"11"
    assert "does not support conditional writes" in caplog.text
    assert len(refused) == 4, "each is refused once: creating and changing the counter, taking the lock, and the look"


def test_prometheus_learns_what_was_tried_again_and_what_was_given_up(
    object_store: local.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, str]] = []
    for figure in (figures.S3_RETRIES, figures.S3_FAILURES):
        monkeypatch.setattr(figure, "add", lambda name=figure.name, *, why: counted.append((name, why)))
    monkeypatch.setattr(s3.time, "sleep", lambda _: None)
    uri = storage.join(object_store.uri, "counted")
    storage.write_bytes(uri, b"content")
    with pytest.raises(FileNotFoundError):
        s3.read(f"{uri}s")
    assert counted == [], "an object that is not there is no failure"
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    with fault_proxy(endpoint, Faults(share=1, kinds=("slow_down",))) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}), pytest.raises(OSError, match="failed 6 times"):
            s3.read(uri)
    assert counted == [("naturaltone_s3_retries", "503 SlowDown")] * 5 + [("naturaltone_s3_failures", "503 SlowDown")]
    counted.clear()
    with fault_proxy(endpoint, Faults(share=1, kinds=("refuse_write",))) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}), pytest.raises(PermissionError):
            s3.write(uri, b"other")
    assert counted == [("naturaltone_s3_failures", "403 AccessDenied")]
