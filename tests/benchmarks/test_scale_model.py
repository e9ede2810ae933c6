"""The page on scaling says what the model computes, and the model computes from what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.training.config import patent
from tests.benchmarks import scale_model as model

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "scaling.md"
RESULTS = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text()


def test_the_page_has_the_tables_of_the_model() -> None:
    page = PAGE.read_text()
    assert page == model.with_tables(page, model.values()), (
        "run `python -m tests.benchmarks.scale_model --write docs/scaling.md`"
    )


@pytest.mark.parametrize("name", model.CONSTANTS)
def test_another_constant_makes_other_tables(name: str) -> None:
    """Each constant counts: doubled, it changes a table of results, and the page would no longer be right."""
    page, changed = PAGE.read_text(), model.values()
    changed[name] *= 2
    assert model.with_tables(page, changed) != page
    results = [table for table in model.TABLES if table != "constants"]
    assert any(model.markdown(table, changed) != model.markdown(table, model.values()) for table in results)


@pytest.mark.parametrize("name", [name for name, constant in model.CONSTANTS.items() if constant.date])
def test_each_measured_constant_is_in_the_results_of_its_day(name: str) -> None:
    constant = model.CONSTANTS[name]
    entries = re.split(r"^## ", RESULTS, flags=re.MULTILINE)
    assert [entry for entry in entries if entry.startswith(constant.date) and constant.quote in entry]


def test_the_model_counts_as_the_code_does() -> None:
    recipe = patent()
    assert (recipe.steps, recipe.batch) == (model.STEPS, model.BATCH)
    assert (model.SHARD, model.ROW_GROUP, model.WAVE, model.LONG_SIDE) == (
        shards.SHARD_PHOTOS,
        shards.ROW_GROUP_PHOTOS,
        ingest.WAVE_PHOTOS,
        shards.LONG_SIDE,
    )


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has 0 tables 'constants'"):
        model.with_tables("no tables", model.values())


def test_sums_by_hand() -> None:
    values = model.values()
    assert model.stored_gb(values, 10**8) == pytest.approx(10**8 * 1024 * 1024 * 2 / 3 / 1e6 * 1097 / 1e6)
    assert model.archive_core_seconds(values) == pytest.approx(12 / 45.4)
    days = {row[0]: row[1:] for row in model.table_days(values)[1:]}
    assert days["archive of 10⁸"][1] == f"{10**8 * 12 / 45.4 / 100 / 86_400:.3g} days"
