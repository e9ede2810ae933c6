"""Results leave the page: downloaded byte for byte, one or all, or copied."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from naturaltone.pipeline.photo.decode import decode
from tests.pipeline.photo.heif_files import HEIF
from tests.serving.service.page.actions import add, download, file_of, pixels_of, requests_of, set_strength
from tests.serving.service.page.conftest import Site


def test_a_download_is_the_services_answer_byte_for_byte_with_its_metadata(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page()
    add(page, file_of(jpeg))
    sent = requests_of(page)
    assert download(page) == ("IMG_1-enhanced.jpg", site.post(jpeg))
    assert sent == []  # at strength 1 the page has the answer already
    for strength in (0.55, 1.5, 0):
        set_strength(page, strength)
        name, data = download(page)
        assert (name, data) == ("IMG_1-enhanced.jpg", site.post(jpeg, f"?strength={strength}"))
        assert Image.open(io.BytesIO(data)).getexif()[0x010F] == "A camera"
    assert len(sent) == 3


def test_all_photos_are_downloaded_each_at_its_strength(
    open_page: Callable[..., Page], site: Site, jpeg: bytes, png: bytes
) -> None:
    page = open_page()
    add(page, file_of(jpeg), file_of(png, "two.png", "image/png"))
    set_strength(page, 0.5)
    found: dict[str, bytes] = {}
    page.on("download", lambda each: found.update({each.suggested_filename: Path(each.path()).read_bytes()}))
    page.click("#save-all")
    expect(page.locator("#saving")).to_have_text("Downloaded 2 photos.")
    page.wait_for_timeout(100)
    assert found == {"IMG_1-enhanced.jpg": site.post(jpeg, "?strength=0.5"), "two-enhanced.png": site.post(png)}
    page.click("#strength-all")
    page.click("#strip [title='two.png']")
    expect(page.locator("#strength-value")).to_have_text("0.50")


def test_the_result_can_be_copied_as_png(open_page: Callable[..., Page], site: Site, jpeg: bytes) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    add(page, file_of(jpeg))
    set_strength(page, 0.5)
    page.click("#copy")
    expect(page.locator("#saving")).to_have_text("Copied.")
    copied = page.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())];
        }"""
    )
    expected = decode(site.post(jpeg, "?strength=0.5")).pixels.astype(int)
    assert np.abs(decode(bytes(copied)).pixels.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("format", ["TIFF", HEIF])
def test_a_format_that_the_browser_cannot_show_is_shown_and_keeps_its_format(
    format: str, open_page: Callable[..., Page], site: Site, astronaut: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    photo = to_file(astronaut, format)
    page = open_page()
    add(page, file_of(photo, f"IMG_1.{format}", f"image/{format.lower()}"))
    expect(page.locator("#facts")).to_contain_text("512 × 512")
    assert pixels_of(page).std() > 20
    assert download(page) == (f"IMG_1-enhanced.{format}", site.post(photo))


def test_a_tiff_wider_than_webp_can_be_is_shown_too(
    open_page: Callable[..., Page], astronaut: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    page = open_page()
    wide = np.tile(astronaut[:32], (1, 33, 1))  # 16,896 pixels
    add(page, file_of(to_file(wide, "TIFF"), "scan.tif", "image/tiff"))
    assert page.locator("#right img").first.evaluate("each => each.naturalWidth") == wide.shape[1]
