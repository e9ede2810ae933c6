"""Everything that is kept lies in one folder that a variable names, and an unwritable home is no error."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from naturaltone.pipeline import caches


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (caches.VARIABLE, caches.BUILT, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_the_variable_names_the_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "one" / "place"))
    assert caches.cache_folder("models") == tmp_path / "one" / "place" / "models"
    assert caches.cache_folder("models").is_dir() and not (tmp_path / "home").exists()


def test_without_the_variable_it_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert caches.cache_folder("models") == tmp_path / "home" / ".cache" / "naturaltone" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.cache_folder("models") == tmp_path / "xdg" / "naturaltone" / "models"


def test_a_home_that_cannot_be_written_means_the_temporary_directory(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, so nothing can be made below it, not even by root")
    folder = caches.cache_folder("models")
    assert folder.is_dir() and folder.is_relative_to(tmp_path / "temporary")
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_a_place_that_was_named_but_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "file" / "below"))
    with pytest.raises(OSError):
        caches.cache_folder("models")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of an image, with one file."""
    folder = tmp_path / "built" / "kernels" / "below"
    folder.mkdir(parents=True)
    (folder / "kernel").write_text("compiled")
    monkeypatch.setenv(caches.BUILT, str(tmp_path / "built"))
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "built"


def test_the_cache_has_what_an_image_brings(built: Path) -> None:
    folder = caches.cache_folder("kernels")
    assert [path.read_text() for path in folder.rglob("kernel")] == ["compiled"]
    assert sorted(path.name for path in folder.rglob("*")) == ["below", "kernel"], "and no file of the copying"
    assert not list(caches.cache_folder("models").iterdir())


def test_a_newer_file_of_the_cache_stays(built: Path) -> None:
    (caches.cache_folder("kernels") / "below" / "kernel").write_text("compiled anew")
    assert (caches.cache_folder("kernels") / "below" / "kernel").read_text() == "compiled anew"


def test_a_disk_without_room_is_no_reason_to_stop(
    built: Path, disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (built / "kernels" / "below" / "kernel").write_bytes(bytes(2**20))
    monkeypatch.setenv(caches.VARIABLE, str(disk(2**16)))
    assert not [path for path in caches.cache_folder("kernels").rglob("*") if path.is_file()]
