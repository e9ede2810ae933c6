"""What the registry in MLflow knows about versions, and what it says when it is away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.training import model_registry, tracking
from naturaltone.training.tracking import TrackingError


def test_a_version_is_found_by_its_number_and_by_its_alias(registered: str) -> None:
    found = model_registry.find_version("1")
    assert found == model_registry.find_version("champion") == model_registry.versions()[-1]
    assert (found.uri, found.run_id) == ("models:/naturaltone/1", registered)
    with pytest.raises(TrackingError, match=r"version '7': .*\(aliases: challenger, champion\)"):
        model_registry.find_version("7")


def test_a_version_tells_its_lineage_and_what_was_measured(registered: str) -> None:
    found = model_registry.find_version("1")
    assert found.tags["lineage.algorithm"] == "test" and found.tags["training.lambda_color"] == "1.0"
    tracking.log_evaluation(registered, {"eval/result/niqe": 4.5}, {"evaluation.html": "<html></html>"})
    assert model_registry.measures_of(found) == {"eval/result/niqe": 4.5}


def test_a_note_outlives_what_it_tells_about(registered: str) -> None:
    model_registry.set_note("promotion.test", "text")
    model_registry.set_tag("1", "seen", "yes")
    assert model_registry.notes()["promotion.test"] == "text"
    assert model_registry.find_version("1").tags["seen"] == "yes"


def test_a_server_that_is_away_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{local.free_port()}"
    with local.environment({"MLFLOW_TRACKING_URI": address}), pytest.raises(TrackingError) as refused:
        model_registry.aliases()
    assert str(refused.value) == (
        f"the model registry at '{address}' cannot be used ([Errno 111] Connection refused); check MLFLOW_TRACKING_URI"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with local.environment({"MLFLOW_TRACKING_URI": address}), pytest.raises(TrackingError, match="timed out"):
            model_registry.versions()


def test_a_database_that_does_not_exist_is_not_made_by_looking(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/none.db"
    with local.environment({"MLFLOW_TRACKING_URI": uri}), pytest.raises(TrackingError, match="there is no tracking at"):
        model_registry.versions()
    assert not list(tmp_path.iterdir())
