"""Everybody can use the page: keyboard, screen reader, phone, both themes, below a prefix, strict policy."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.serving.service.conftest import KEY
from tests.serving.service.page.actions import add, file_of
from tests.serving.service.page.conftest import SECONDS, Site


def test_the_keyboard_alone_leads_from_the_empty_page_to_the_download(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page()

    def tab_to(selector: str) -> None:
        for _ in range(30):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not lead to {selector}")

    # Playwright asks Chromium for the dialogs without waiting for its answer; a key is faster than that answer.
    page.on("filechooser", lambda _: None)
    tab_to("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file_of(jpeg))
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    expect(page.locator("#name")).to_be_focused()
    tab_to("#strength")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    tab_to("#download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert Path(download.value.path()).read_bytes() == site.post(jpeg, "?strength=0.8")
    page.locator("#main").focus()
    for selector in ("#scroller", "#handle", "#hold", "#zoom", "#compare", ".thumb", ".remove"):
        tab_to(selector)
        assert _has_visible_focus(page), selector


def _has_visible_focus(page: Page) -> bool:
    return page.evaluate(
        """() => {
          const element = document.activeElement, knob = element.querySelector("svg") ?? element;
          return getComputedStyle(element).outlineStyle !== "none" || getComputedStyle(knob).boxShadow !== "none";
        }"""
    )


def test_a_screen_reader_hears_what_happens(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()
    assert page.get_attribute("#status", "aria-live") == "polite"
    add(page, file_of(jpeg))
    expect(page.locator("#status")).to_have_text("IMG_1.jpg: Enhanced.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_state_of_the_page_violates_a_rule_of_accessibility(
    open_page: Callable[..., Page], jpeg: bytes, theme: str
) -> None:
    axe = Axe()
    for width in (1200, 360):
        page = open_page(width=width, color_scheme=theme, reduced_motion="reduce")

        def check(page: Page = page) -> None:
            results = axe.run(page)
            assert results.violations_count == 0, results.generate_report()

        check()
        add(page, file_of(jpeg))
        check()
        page.check("#compare")
        expect(page.locator("#which")).to_be_visible()
        check()
        add(page, file_of(b"not a photo", "notes.jpg"), done=False)
        expect(page.locator("#trouble")).to_be_visible()
        check()
        page.evaluate("document.getElementById('key-open').click()")
        check()


def test_a_phone_never_scrolls_sideways(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page("/keyed", width=360, height=740, has_touch=True, is_mobile=True)

    def check() -> None:
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]

    check()
    page.tap("#key-open")
    check()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    add(page, *(file_of(jpeg, f"a-photo-with-a-very-long-name-{'x' * 80}-{number}.jpg") for number in range(5)))
    check()
    page.tap("#compare")
    expect(page.locator("#which")).to_be_visible()
    check()
    page.tap("#zoom")
    check()
    add(page, file_of(b"not a photo", "notes.jpg"), done=False)
    expect(page.locator("#trouble")).to_be_visible()
    check()


def test_the_page_follows_the_systems_theme_until_the_user_chooses(open_page: Callable[..., Page]) -> None:
    def background(page: Page) -> int:
        return int(re.search(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    assert background(open_page(color_scheme="light")) > 200
    page = open_page(color_scheme="dark")
    assert background(page) < 60
    button = page.get_by_role("button", name="Dark theme", pressed=True)
    button.click()
    assert background(page) > 200
    page.reload()
    assert background(page) > 200
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Dark theme", pressed=False).click()
    assert background(page) < 60


def test_nothing_moves_for_those_who_want_less_motion(open_page: Callable[..., Page], jpeg: bytes) -> None:
    for motion, moves in (("reduce", False), ("no-preference", True)):
        page = open_page("/held", reduced_motion=motion)
        add(page, file_of(jpeg), done=False)
        expect(page.locator("#strip [data-state=enhancing]")).to_have_count(1)
        animations = "document.getAnimations().some(each => each.effect.getTiming().iterations === Infinity)"
        assert page.evaluate(animations) is moves


def test_the_page_works_at_the_root_too_and_links_to_the_api(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page("")
    add(page, file_of(jpeg))
    page.get_by_role("link", name="The API").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("the API")


def test_the_page_breaks_no_rule_of_its_strict_policy(site: Site) -> None:
    # `open_page` fails each test whose page breaks the policy. So here is only whether the policy is strict.
    with contextlib.closing(urllib.request.urlopen(f"{site.address}/open/", timeout=SECONDS)) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"""(?:src|href)=["'](?:https?:|//|/)""", html)
