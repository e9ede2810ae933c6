"""A dry run says what would be done, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes

ToFile = Callable[..., bytes]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    mixed: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    command = ["enhance", str(mixed), str(target), "--model", str(bundle_folder), "--dry-run"]
    assert cli.main(command) == exit_codes.OK
    said = capsys.readouterr().out
    for words in (
        "4  photos to enhance",
        "2  sidecars",
        "1 hdr_gain_map",
        "1  other files",
        "RAW",
        "nothing was written",
    ):
        assert words in said, said
    assert not target.exists()
    target.mkdir()
    (target / ".01234567.naturaltone.tmp").write_bytes(b"of a run that is going on")
    assert cli.main(command) == exit_codes.OK
    assert [path.name for path in target.iterdir()] == [".01234567.naturaltone.tmp"]
