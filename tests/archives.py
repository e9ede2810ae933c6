"""Reads the outputs and the report that a run over an archive wrote to its target."""

from __future__ import annotations

from pathlib import Path

from naturaltone.serving.archive.report import FOLDER, Entry, Report


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


def statuses(target: Path) -> dict[str, tuple[str, str]]:
    return {entry.source: (entry.status, entry.reason) for entry in rows(target)}


def rows(target: Path) -> list[Entry]:
    """The rows of the report, as the next run reads them."""
    with Report(str(target)) as report:
        return list(report.rows())
