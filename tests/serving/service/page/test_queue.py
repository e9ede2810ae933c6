"""Several photos wait, are cancelled for real, and free their memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.serving.service.conftest import wait_until
from tests.serving.service.page.actions import add, file_of, requests_of
from tests.serving.service.page.conftest import Site


def test_a_cancelled_photo_leaves_the_service_and_the_next_one_takes_its_turn(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page("/held")
    gone = site.gone
    add(page, *(file_of(jpeg, f"{number}.jpg") for number in range(4)), done=False)
    wait_until(lambda: site.held == 2)
    expect(page.locator("#strip [data-state=enhancing]")).to_have_count(2)
    expect(page.locator("#strip [data-state=queued]")).to_have_count(2)
    expect(page.locator("#progress-text")).to_have_text("Enhancing")
    page.wait_for_timeout(200)
    assert site.held == 2  # never more than two at once
    page.click("#cancel")
    wait_until(lambda: site.gone == gone + 1)
    expect(page.locator("#trouble-title")).to_have_text("Cancelled")
    expect(page.locator("#strip [data-state=enhancing]")).to_have_count(2)
    page.locator("#strip li").last.hover()
    page.get_by_role("button", name="Cancel 3.jpg").click()
    expect(page.locator("#strip [data-state=cancelled]")).to_have_count(2)
    expect(page.locator("#strip [data-state=queued]")).to_have_count(0)


def test_a_busy_service_is_asked_again_after_the_time_that_it_names(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page("/busy")
    site.refusals_left = 1
    begun = time.monotonic()
    add(page, file_of(jpeg), done=False)
    expect(page.locator("#progress-text")).to_have_text("The service is busy. Next try in 1 s")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    assert time.monotonic() - begun >= 1


def test_a_photo_that_waits_for_a_busy_service_can_be_cancelled(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page("/busy")
    site.refusals_left = 1
    add(page, file_of(jpeg), done=False)
    expect(page.locator("#strip [data-state=waiting]")).to_have_count(1)
    sent = requests_of(page)
    page.click("#cancel")
    expect(page.locator("#strip [data-state=cancelled]")).to_have_count(1)
    page.wait_for_timeout(1200)
    assert sent == []
    page.click("#again")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)


def test_a_removed_photo_frees_its_memory(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          window.urls = new Set();
          const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
          URL.createObjectURL = blob => { const url = create(blob); urls.add(url); return url; };
          URL.revokeObjectURL = url => { urls.delete(url); revoke(url); };
        }"""
    )
    add(page, file_of(jpeg), file_of(jpeg, "two.jpg"))
    assert page.evaluate("urls.size") == 4
    page.locator("#strip .thumb").first.press("Delete")
    expect(page.locator("#name")).to_have_text("two.jpg")
    page.locator("#strip .thumb").first.press("Delete")
    expect(page.locator("#invitation")).to_be_visible()
    expect(page.locator("#choose")).to_be_focused()
    assert page.evaluate("urls.size") == 0
