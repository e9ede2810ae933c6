"""Nobody else on the machine can read, or put something into, the folder that a user's processes share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.private_folder import private_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folder will be."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"naturaltone-{os.getuid()}"


def test_it_is_for_its_user_alone(place: Path) -> None:
    assert private_folder() == place == private_folder()
    assert place.stat().st_mode & 0o777 == 0o700 and place.stat().st_uid == os.getuid()
    assert private_folder("logs") == place / "logs" and (place / "logs").is_dir()


def test_one_that_others_could_only_read_is_closed(place: Path) -> None:
    place.mkdir(mode=0o755)
    assert private_folder().stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is no folder; remove it, or set TMPDIR"):
        private_folder()


def test_a_folder_that_others_can_write_to_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(UserError, match="can be written by other users"):
        private_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder away takes root")
def test_a_folder_of_somebody_else_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        private_folder()
