"""Two models are compared side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect

from tests.serving.service.page.actions import add, download, file_of, pixels_of
from tests.serving.service.page.conftest import Site


def test_two_models_are_compared_and_each_can_be_downloaded(
    open_page: Callable[..., Page], site: Site, bundle_folder: Path, challenger_folder: Path, jpeg: bytes
) -> None:
    page = open_page()
    add(page, file_of(jpeg))
    page.check("#compare")
    expect(page.locator("#left-tag")).to_contain_text(f"Champion\n{bundle_folder.name}")
    expect(page.locator("#right-tag")).to_contain_text(f"Challenger\n{challenger_folder.name}")
    page.locator("#handle").press("Home")
    challenger = pixels_of(page)
    page.locator("#handle").press("End")
    assert np.abs(pixels_of(page) - challenger).mean() > 2
    page.select_option("#which", "challenger")
    expect(page.locator("#answer")).to_contain_text(challenger_folder.name)
    assert download(page)[1] == site.post(jpeg, "?model=challenger")
    page.uncheck("#compare")
    expect(page.locator("#left-tag")).to_have_text("Original")


def test_without_a_challenger_there_is_nothing_to_compare(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()

    def alone(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "challenger": None})

    page.route("**/v1/model", alone)
    page.reload()
    expect(page.locator("#model")).to_contain_text("Model")
    add(page, file_of(jpeg))
    expect(page.locator("#compare")).to_be_hidden()
