"""Errors are told in plain words with their remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from playwright.sync_api import Page, expect

from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.service.guard import ENHANCE
from tests.serving.service.page.actions import add, file_of, requests_of
from tests.serving.service.page.conftest import Site


def test_an_error_is_told_in_plain_words_with_its_remedy_and_the_request(
    open_page: Callable[..., Page], jpeg: bytes
) -> None:
    page = open_page()
    add(page, file_of(b"not a photo", "notes.jpg"), done=False)
    expect(page.locator("#trouble-title")).to_have_text("This is not a photo")
    expect(page.locator("#trouble-remedy")).to_have_text("Choose another file.")
    expect(page.locator("#trouble-detail")).to_contain_text("The service says: ")
    expect(page.locator("#trouble-id")).to_contain_text(re.compile("Request [0-9a-f]{32}"))
    expect(page.locator("#status")).to_have_text("notes.jpg: This is not a photo.")
    page.click("#remove")
    expect(page.locator("#invitation")).to_be_visible()


def test_a_photo_that_is_enhanced_already_is_named_so(open_page: Callable[..., Page], site: Site, jpeg: bytes) -> None:
    page = open_page()
    add(page, file_of(site.post(jpeg)), done=False)
    expect(page.locator("#trouble-title")).to_have_text("This photo is enhanced already")


def test_every_reason_has_words_on_the_page() -> None:
    words = files("naturaltone.serving.service").joinpath("page/words.js").read_text()
    of_archives = {
        *(Reason.NOT_FOLLOWED, Reason.NAME_COLLISION, Reason.OUTPUT_EXISTS, Reason.UNCOPIED),
        *(Reason.UNPROCESSABLE, Reason.UNREADABLE, Reason.UNSAFE_NAME),
    }
    assert {reason for reason in Reason if f"\n  {reason}: [" not in words} == of_archives


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()

    def small(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "max_bytes": len(jpeg) - 1})

    page.route("**/v1/model", small)
    page.reload()
    expect(page.locator("#model")).to_contain_text("Model")
    sent = requests_of(page)
    add(page, file_of(jpeg), done=False)
    expect(page.locator("#trouble-title")).to_have_text("This file is too large")
    assert sent == []


def test_a_service_that_does_not_answer_is_told_and_asked_again_by_a_button(
    open_page: Callable[..., Page], jpeg: bytes
) -> None:
    page = open_page()
    page.route(f"**{ENHANCE}", lambda route: route.abort())
    add(page, file_of(jpeg), done=False)
    expect(page.locator("#trouble-title")).to_have_text("The service does not answer")
    page.unroute(f"**{ENHANCE}")
    page.click("#again")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
