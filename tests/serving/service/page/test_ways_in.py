"""Photos come into the page: dropped, pasted, chosen or taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.serving.service.page.actions import file_of
from tests.serving.service.page.conftest import Site


def _give_files(page: Page, event: str, data: bytes) -> None:
    """Send the event of a drop or of a paste, with a photo, to the page."""
    page.evaluate(
        """([event, bytes]) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], "IMG_1.jpg", {type: "image/jpeg"}));
          const options = {bubbles: true, cancelable: true};
          document.querySelector("main").dispatchEvent(event === "paste"
            ? new ClipboardEvent(event, {...options, clipboardData: files})
            : new DragEvent(event, {...options, dataTransfer: files}));
        }""",
        [event, list(data)],
    )


def test_a_dropped_photo_is_enhanced_and_the_page_says_by_which_model_and_in_which_time(
    open_page: Callable[..., Page], site: Site, bundle_folder: Path, jpeg: bytes
) -> None:
    page = open_page()
    _give_files(page, "dragenter", jpeg)
    expect(page.get_by_text("Drop to enhance")).to_be_visible()
    _give_files(page, "drop", jpeg)
    expect(page.get_by_text("Drop to enhance")).to_be_hidden()
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    expect(page.locator("#answer")).to_contain_text(bundle_folder.name)
    expect(page.locator("#timing summary")).to_contain_text(re.compile(r"Took \d"))
    page.click("#timing summary")
    expect(page.locator("#timing")).to_contain_text("Reading the photo")
    expect(page.locator("#facts")).to_contain_text("512 × 512")


def test_a_photo_can_be_pasted(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()
    _give_files(page, "paste", jpeg)
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)


def test_several_photos_can_be_chosen_and_more_added(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()
    for button, name in (("#choose", "one.jpg"), ("#add", "two.jpg")):
        with page.expect_file_chooser() as chooser:
            page.click(button)
        assert chooser.value.is_multiple()
        chooser.value.set_files(file_of(jpeg, name))
    expect(page.locator("#strip [data-state=done]")).to_have_count(2)
    expect(page.locator("#name")).to_have_text("two.jpg")


def test_a_phone_can_take_a_photo(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page(width=360, height=740, has_touch=True, is_mobile=True)
    assert page.get_attribute("#shot", "capture") == "environment"
    with page.expect_file_chooser() as chooser:
        page.tap("#camera")
    chooser.value.set_files(file_of(jpeg))
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    expect(open_page().locator("#camera")).to_be_hidden()  # no touch, no camera
