"""Each line of the log is one JSON object, whatever is in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Lines = Callable[[], list[dict[str, Any]]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.text(), extra=st.text())
def test_any_text_is_one_line(message: str, extra: str, service_log: Lines) -> None:
    before = len(service_log())
    logging.getLogger("naturaltone.x").info("%s", message, extra={"request_id": extra})
    lines = service_log()
    assert len(lines) == before + 1
    assert (lines[-1]["message"], lines[-1]["request_id"], lines[-1]["level"]) == (message, extra, "info")
    moment = datetime.fromisoformat(lines[-1]["time"])
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60


def test_a_trace_and_a_value_that_is_no_json_are_in_the_line(service_log: Lines) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("naturaltone.x").exception("what", extra={"path": Path("a")})
    (line,) = service_log()
    assert line["path"] == "a" and line["trace"].endswith("ValueError: why") and line["level"] == "error"


def test_other_packages_do_not_write_into_it(service_log: Lines) -> None:
    logging.getLogger("uvicorn").error("not ours")
    assert service_log() == []


def test_a_file_that_logrotate_moved_away_is_opened_again(service_log: Lines, tmp_path: Path) -> None:
    logger = logging.getLogger("naturaltone.x")
    logger.info("one")
    os.rename(tmp_path / "service.jsonl", tmp_path / "service.jsonl.1")
    logger.info("two")
    assert [line["message"] for line in service_log()] == ["two"]
