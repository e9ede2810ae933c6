"""The tracking server shows whether a run is running and how it ended."""

from __future__ import annotations

import mlflow
import pytest

from naturaltone.training import tracking
from tests.training.test_recorder import client_of


def test_a_run_is_shown_as_running_and_then_as_it_ended(tracking_uri: str) -> None:
    client = client_of(tracking_uri)
    run_id = tracking.start_run(run_name="ends", params={}, tags={"store": "/a"}, dataset="/a/manifest.parquet")
    for error, status in ((RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), tracking.running(run_id):
            assert client.get_run(run_id).info.status == "RUNNING"
            raise error
        assert client.get_run(run_id).info.status == status


def test_a_server_that_fails_while_a_run_is_opened_is_one_line(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise mlflow.MlflowException("connection refused")

    new = {"params": {"a": 1}, "tags": {"store": "/a"}, "dataset": "/a/manifest.parquet"}
    with monkeypatch.context() as patch, pytest.raises(tracking.TrackingError, match="cannot be used"):
        patch.setattr(mlflow, "log_params", away)  # the first call after the run has been found or made
        tracking.start_run(run_name="half opened", **new)
    run_id = tracking.start_run(run_name="opened", **new)
    monkeypatch.setattr(mlflow.tracking.MlflowClient, "update_run", away)
    with pytest.raises(tracking.TrackingError, match="cannot be used"), tracking.running(run_id):
        pass
