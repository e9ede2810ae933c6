"""The tracking server shows whether a run is running and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from naturaltone.training import tracking
from tests.training.test_recorder import client_of

if TYPE_CHECKING:
    pass


def test_a_run_is_shown_as_running_and_then_as_it_ended(tracking_uri: str) -> None:
    client = client_of(tracking_uri)
    run_id = tracking.start_run(run_name="ends", params={}, tags={"store": "/a"}, dataset="/a/manifest.parquet")
    for error, status in ((RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), tracking.running(run_id):
            assert client.get_run(run_id).info.status == "RUNNING"
            raise error
        assert client.get_run(run_id).info.status == status
