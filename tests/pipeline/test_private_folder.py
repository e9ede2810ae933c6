"""No other user can read the folder that a user's processes share, or write to it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.private_folder import private_folder, scratch_folder


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the folder, which does not exist yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"naturaltone-{os.getuid()}"


def test_only_its_user_can_use_it(shared: Path) -> None:
    assert private_folder() == shared == private_folder()
    assert shared.stat().st_mode & 0o777 == 0o700 and shared.stat().st_uid == os.getuid()
    assert private_folder("logs") == shared / "logs" and (shared / "logs").is_dir()


def test_a_folder_that_others_could_read_is_closed_to_them(shared: Path) -> None:
    shared.mkdir(mode=0o755)
    assert private_folder().stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_followed(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not a folder; remove it, or set TMPDIR"):
        private_folder()


def test_a_folder_that_others_can_write_to_is_refused(shared: Path) -> None:
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UserError, match="can be written by other users"):
        private_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(shared: Path) -> None:
    shared.mkdir(mode=0o700)
    os.chown(shared, 12345, 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        private_folder()


def test_a_scratch_folder_is_removed_with_its_files_and_locked_until_then(shared: Path) -> None:
    with scratch_folder("known") as first, scratch_folder("known") as second:
        (first / "file").write_bytes(b"x")
        assert first != second and set((shared / "known").iterdir()) == {first, second}
    assert list((shared / "known").iterdir()) == []
    (shared / "known" / "of a killed process").mkdir()
    with scratch_folder("known") as folder:
        assert list((shared / "known").iterdir()) == [folder]
