"""The page asks for the API key and keeps it where the user wants."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.serving.service.conftest import KEY
from tests.serving.service.page.actions import add, file_of


def test_a_missing_key_is_asked_for_and_the_photo_is_sent_again(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page("/keyed")
    add(page, file_of(jpeg), done=False)
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()  # again
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


def test_a_key_is_kept_only_where_the_user_wants_and_can_be_forgotten(open_page: Callable[..., Page]) -> None:
    page = open_page("/keyed")
    page.click("#key-open")
    page.fill("#key", KEY)
    page.check("#key-remember")
    page.get_by_role("button", name="Use this key").click()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 1]
    page.reload()
    page.click("#key-open")
    expect(page.locator("#key")).to_have_value(KEY)
    page.get_by_role("button", name="Forget the key").click()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]
    expect(open_page("/open").locator("#key-open")).to_be_hidden()  # a service without keys
