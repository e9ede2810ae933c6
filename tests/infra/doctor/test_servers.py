"""Each check of a server passes on a good one, and fails on one that refuses, is away, or lacks what it checks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.infra.doctor import servers
from naturaltone.infra.doctor.finding import Finding, Status
from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.serving.service import settings
from naturaltone.training import model_registry
from tests import fault_proxy
from tests.stores import LONG_SIDE, add, make_store


def check_storage(uri: str, *, for_deployment: bool = False) -> dict[str, Finding]:
    return {each.check: each for each in servers.check_storage(uri, for_deployment=for_deployment)}


def test_a_folder_may_be_used_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = check_storage(str(tmp_path / "new"))
    assert found["storage"].status is found["locks"].status is Status.OK
    assert not list(tmp_path.iterdir())


def test_a_server_with_conditional_writes_keeps_machines_apart(conditional_s3: str) -> None:
    found = check_storage(conditional_s3, for_deployment=True)
    assert {each.status for each in found.values()} == {Status.OK}
    assert set(found) == {"storage", "locks", "clock of the S3 server"}


def test_a_server_without_conditional_writes_is_a_failure_only_for_several_machines(
    object_store: local.ObjectStore, tmp_path: Path
) -> None:
    uri = storage.join(object_store.uri, tmp_path.name)
    assert check_storage(uri)["locks"].status is Status.WARNING
    assert check_storage(uri, for_deployment=True)["locks"].status is Status.FAILURE


@pytest.mark.parametrize(("methods", "right"), [({"PUT", "POST"}, "write"), ({"DELETE"}, "delete")])
def test_a_right_that_the_keys_lack_is_named(
    methods: set[str],
    right: str,
    conditional_s3: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(self: fault_proxy._Server, method: str) -> str | None:
        return "refuse_write" if method in methods else None

    monkeypatch.setattr(fault_proxy._Server, "draw", draw)
    endpoint = servers.s3.os.environ["AWS_ENDPOINT_URL"]
    with fault_proxy.fault_proxy(endpoint, fault_proxy.Faults()) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            found = check_storage(conditional_s3)["storage"]
    assert found.status is Status.FAILURE and f"may not {right} (" in found.found and "rights" in found.remedy


def test_a_bucket_that_does_not_exist_is_a_failure(object_store: local.ObjectStore) -> None:
    assert check_storage("s3://absent/store")["storage"].status is Status.FAILURE


def test_a_clock_that_s3_would_refuse_is_a_failure(conditional_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers.check_clock_of_s3(conditional_s3).status is Status.OK
    now = time.time
    monkeypatch.setattr(servers.time, "time", lambda: now() + 400)
    found = servers.check_clock_of_s3(conditional_s3)
    assert found.status is Status.FAILURE and "NTP" in found.remedy
    assert servers.judge_clock("clock", 60).status is Status.WARNING


def test_a_store_that_is_missing_damaged_or_half_full_is_said(tmp_path: Path, astronaut: np.ndarray) -> None:
    assert servers.check_store(str(tmp_path)).status is Status.WARNING
    assert servers.check_store(make_store(tmp_path / "good", astronaut, 3)).status is Status.OK
    half = shards.empty_store(str(tmp_path / "half"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    add(half, astronaut, "input", 0, 2)
    found = servers.check_store(half.uri)
    assert found.status is Status.WARNING and "natural" in found.remedy
    Path(half.uri, shards.MANIFEST).write_bytes(b"damaged")
    assert servers.check_store(half.uri).status is Status.FAILURE


def test_a_tracking_server_that_is_away_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{local.free_port()}")
    found = list(servers.check_tracking(for_deployment=False))
    assert [each.status for each in found] == [Status.FAILURE] and "cannot be used" in found[0].found


def test_a_database_on_a_disk_is_a_failure_only_for_several_machines(registered: str) -> None:
    one, several = (next(iter(servers.check_tracking(for_deployment=given))) for given in (False, True))
    assert one.status is Status.OK and several.status is Status.FAILURE and "mlflow server" in several.remedy


def test_tracking_that_does_not_exist_yet_is_not_made_by_a_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert [each.status for each in servers.check_tracking(for_deployment=False)] == [Status.WARNING]
    assert not list(tmp_path.iterdir())


def test_a_champion_whose_version_was_deleted_is_a_failure(registered: str) -> None:
    from mlflow.tracking import MlflowClient

    assert servers.check_champion().status is Status.OK
    MlflowClient().delete_model_version(model_registry.MODEL_NAME, "1")
    found = servers.check_champion()
    assert found.status is Status.FAILURE and "version 1 was it" in found.found


@pytest.mark.parametrize(
    ("keys", "for_deployment", "status"),
    [
        ("ab" * 32, True, Status.OK),
        ("short", False, Status.FAILURE),
        ("", False, Status.WARNING),
        ("", True, Status.FAILURE),
    ],
)
def test_a_service_without_valid_keys_is_said(
    keys: str, for_deployment: bool, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.API_KEYS, keys)
    assert servers.check_keys(for_deployment=for_deployment).status is status
