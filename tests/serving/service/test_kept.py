"""The last good model is kept whole, and a damaged copy is never served and never a bug."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naturaltone.serving.service import kept
from naturaltone.training.checkpoint import load_bundle


def test_a_kept_model_comes_back_with_its_version(bundle_folder: Path, cache: Path) -> None:
    assert kept.read("models:/x@champion") is None
    kept.keep("models:/x@champion", bundle_folder, "x/1-ab")
    found = kept.read("models:/x@champion")
    assert found is not None
    bundle, version = found
    assert (bundle.digest, version) == (load_bundle(bundle_folder).digest, "x/1-ab")
    assert kept.read("models:/x@challenger") is None
    assert [path.suffix for path in (cache / "models").iterdir()] == [".zip"], "no temporary file stays"


def test_a_model_of_an_image_whose_files_are_from_1970_is_kept(
    bundle_folder: Path, tmp_path: Path, cache: Path
) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    kept.keep("uri", folder, "v-1")
    assert kept.read("uri") is not None


def test_a_uri_cannot_lead_out_of_the_cache(bundle_folder: Path, cache: Path) -> None:
    kept.keep("../../../" + "x" * 5000, bundle_folder, "v")
    assert len(list((cache / "models").iterdir())) == 1


@pytest.mark.parametrize("missing", ["cache", "bundle"])
def test_a_model_that_cannot_be_kept_is_no_error(
    missing: str, bundle_folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "cache":
        (tmp_path / "file").touch()
        monkeypatch.setenv("NATURALTONE_CACHE", str(tmp_path / "file" / "below"))
        kept.keep("uri", bundle_folder, "v")
    else:
        kept.keep("uri", tmp_path / "none", "v")
        assert list((cache / "models").iterdir()) == []
    assert kept.read("uri") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_damaged_copy_is_not_used(data: st.DataObject, bundle_folder: Path, cache: Path) -> None:
    kept.keep("uri", bundle_folder, "v-1")
    path = kept._path("uri")
    whole = path.read_bytes()
    ends = st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 200), st.integers(len(whole) - 400, len(whole) - 1))
    offset = data.draw(ends)
    if data.draw(st.booleans()):
        path.write_bytes(whole[:offset])
    else:
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ data.draw(st.integers(1, 255))]) + whole[offset + 1 :])
    found = kept.read("uri")
    assert found is None or (found[0].digest, found[1]) == (load_bundle(bundle_folder).digest, "v-1")
