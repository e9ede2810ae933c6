"""The worst finding decides, and each finding is one line."""

from __future__ import annotations

import json

from naturaltone.infra.doctor import finding

FINDINGS = [
    finding.ok("memory", "24 GiB"),
    finding.failure("GPU", "driver 550, but torch cannot use it", "install a build with CUDA"),
    finding.warning("HEIC", "cannot be read", "install pillow-heif"),
]


def test_the_worst_finding_decides() -> None:
    assert finding.worst(FINDINGS) is finding.Status.FAILURE
    assert finding.worst(FINDINGS[::2]) is finding.Status.WARNING
    assert finding.worst(FINDINGS[:1]) is finding.worst([]) is finding.Status.OK


def test_a_line_says_the_status_what_was_found_and_the_remedy() -> None:
    assert finding.format_line(FINDINGS[0]) == "ok       memory: 24 GiB"
    assert finding.format_line(FINDINGS[1]).startswith("failure  GPU: driver 550, but torch cannot use it; install")


def test_a_script_reads_the_same_as_json() -> None:
    said = json.loads(finding.format_json(FINDINGS))
    assert said["status"] == "failure"
    assert said["findings"][2] == {
        "check": "HEIC",
        "status": "warning",
        "found": "cannot be read",
        "remedy": "install pillow-heif",
    }
