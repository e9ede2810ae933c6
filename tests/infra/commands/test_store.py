"""`naturaltone store` prints a table or JSON, and writes a page of random photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from tests.stores import LONG_SIDE, add, make_store


def test_a_store_is_described_for_people_and_for_scripts(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, astronaut, 5)
    assert cli.main(["store", store, "--sheet", str(tmp_path / "sheet.html"), "--pairs", "2"]) == 0
    assert "row groups" in capsys.readouterr().out
    assert (tmp_path / "sheet.html").read_text().count("<img") == 6
    assert cli.main(["store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["photos"]["input"]["train"]["photos"] == 3


def test_a_folder_that_is_not_a_store_is_refused(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "no store here" in refused("store", no_photos)


def test_the_gate_set_grows_by_this_command(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shards.empty_store(str(tmp_path / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    add(store, astronaut, "input", 0, 1)
    for photos in (1, 2):
        assert cli.main(["store", store.uri, "--grow-gate"]) == exit_codes.OK
        assert f"{photos} input, 0 natural photos" in capsys.readouterr().out
        if photos == 1:
            add(store, astronaut, "input", 1, 1)
