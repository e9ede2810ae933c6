"""What an archive's run left in its target."""

from __future__ import annotations

from pathlib import Path

from naturaltone.serving.archive.report import FOLDER, Report


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


def statuses(target: Path) -> dict[str, tuple[str, str]]:
    return {row["source"]: (row["status"], row["reason"]) for row in Report(str(target)).table.to_pylist()}
