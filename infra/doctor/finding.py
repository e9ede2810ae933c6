"""What a check found: all is well, a warning, or a failure with its remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. found: what is there. remedy: what to do about it; empty if all is well."""

    check: str
    status: Status
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, status=Status.OK, found=found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check=check, status=Status.WARNING, found=found, remedy=remedy)


def failure(check: str, found: str, remedy: str) -> Finding:
    return Finding(check=check, status=Status.FAILURE, found=found, remedy=remedy)


def worst(findings: Iterable[Finding]) -> Status:
    order = list(Status)
    return max((finding.status for finding in findings), key=order.index, default=Status.OK)


def format_line(finding: Finding) -> str:
    """One line for people, such as `failure  disk of TMPDIR: 0.4 GiB free; free some space`."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.status:<8} {finding.check}: {finding.found}{remedy}"


def format_json(findings: list[Finding]) -> str:
    """One JSON object for a script: the worst status, and the findings."""
    return json.dumps({"status": worst(findings), "findings": [asdict(finding) for finding in findings]})
