"""`naturaltone ingest` refuses wrong arguments in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import storage


@pytest.mark.parametrize("role", ["input", "natural"])
def test_ingest_refuses_a_missing_folder_and_one_without_photos(refused, role, no_photos, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert "no such folder; check the path" in refused(
        "ingest", "/no/such", "--role", role, "--to", str(tmp_path / "s")
    )
    assert "no photos here; looked for .jpg" in refused(
        "ingest", no_photos, "--role", role, "--to", str(tmp_path / "s")
    )
    assert not (tmp_path / "s").exists()


def test_wrong_keys_are_refused_at_once(refused, object_store: local.ObjectStore, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    with local.environment({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        line = refused("ingest", str(photo_folder), "--role", "input", "--to", storage.join(object_store.uri, "x"))
    assert "refuses access" in line and "AWS_SECRET_ACCESS_KEY" in line


def test_a_store_that_cannot_be_written_is_refused_before_any_work(refused, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    file = str(photo_folder / "01.jpg")
    assert "nothing can be written" in refused("ingest", str(photo_folder), "--role", "input", "--to", file)
