"""Every file that is not in the store is listed with its reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturaltone.pipeline.dataset import shards
from tests.ingests import run

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_every_file_that_is_not_in_the_store_is_listed_with_its_reason(
    folder: Path, tmp_path: Path, small_waves: None
) -> None:
    (folder / "raw.NEF").write_bytes(b"MM\0*" + bytes(100))
    Image.new("P", (40, 40)).save(folder / "drawing.gif")
    (folder / "text.jpg").write_text("no photo")
    (folder / "text again.jpg").write_text("no photo")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "letter.txt").write_text("Dear all")
    for _ in range(2):
        report = run(folder, tmp_path / "store")
        reasons = {row["source"].rpartition("/")[2]: row["reason"] for row in report.rejects.to_pylist()}
        assert reasons == {
            "raw.NEF": "raw",
            "drawing.gif": "unsupported_format",
            "gone.jpg": "unreadable",
            "text.jpg": "not_an_image",
            "text again.jpg": "not_an_image",
        }
        kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
        assert sorted(kept["reason"].to_pylist()) == sorted(reasons.values())
        assert report.other_files == 1
    shutil.copy(folder / "01.jpg", folder / "text.jpg")
    run(folder, tmp_path / "store")
    kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
    assert len(kept) == 4, "a repaired file is no longer on the list"
