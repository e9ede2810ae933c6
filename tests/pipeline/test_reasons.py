"""Every reason is in `Reason`, and the tables of docs/archive.md say the same."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest

from naturaltone.pipeline.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs"
OF_REQUESTS = {
    *(Reason.BAD_PARAMETER, Reason.METHOD_NOT_ALLOWED, Reason.NO_MODEL, Reason.NOT_FOUND, Reason.OVERLOADED),
    *(Reason.RATE_LIMITED, Reason.TIMED_OUT, Reason.UNAUTHORIZED, Reason.WORKER_LOST),
}


def tables(page: str) -> list[dict[str, str]]:
    """The tables of a page whose first column is `reason`: meaning by reason."""
    found, rows = [], None
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| reason |"):
            rows = {}
            found.append(rows)
        elif rows is not None and line.startswith("|"):
            if match := re.fullmatch(r"`(\w+)`", cells[0]):
                rows[match[1]] = cells[1]
        else:
            rows = None
    return found


@pytest.mark.parametrize("left_alone", [True, False])
def test_the_guide_lists_every_reason_of_an_archive_with_its_meaning(left_alone: bool) -> None:
    expected = {
        reason: reason.meaning
        for reason in set(Reason) - OF_REQUESTS - {Reason.UNPROCESSABLE}
        if reason.left_alone == left_alone
    }
    assert tables("archive.md")[0 if left_alone else 1] == expected


def test_the_guide_lists_every_reason_of_a_request_with_its_meaning() -> None:
    assert tables("serving.md") == [{reason: reason.meaning for reason in OF_REQUESTS}]


def test_a_reason_is_the_word_that_reports_and_answers_hold() -> None:
    assert f"{Reason.RAW}" == "raw" == Reason.RAW and json.dumps({"error": Reason.RAW}) == '{"error": "raw"}'
    assert pa.array([Reason.RAW], pa.string()).to_pylist() == ["raw"]
    assert pickle.loads(pickle.dumps(Reason.RAW)) is Reason.RAW


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_it_means_and_how_http_answers(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z].*\.", reason.meaning) and 400 <= reason.http_status < 600
    assert re.fullmatch(r"[a-z_]+", reason)


def test_no_reason_is_written_as_a_bare_string() -> None:
    """A misspelt reason, or one that `Reason` lacks, would go into reports unnoticed."""
    root = Path(__file__).parents[2]
    words = "|".join(Reason)
    for folder in ("pipeline", "training", "serving", "infra"):
        for path in (root / folder).rglob("*.py"):
            if path.name != "reasons.py":
                bare = re.findall(rf'ImageError\(\s*"|reason=["\']|"(?:{words})": ', path.read_text())
                assert not bare, f"{path}: {bare}"
