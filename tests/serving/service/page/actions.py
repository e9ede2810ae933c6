"""What a user does on the page, and what is seen of it there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from naturaltone.serving.service.guard import ENHANCE


def file_of(data: bytes, name: str = "IMG_1.jpg", kind: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": data}


def add(page: Page, *photos: dict[str, Any], done: bool = True) -> None:
    """Choose photos, and wait until they are enhanced."""
    before = page.locator("#strip li").count()
    page.set_input_files("#files", list(photos))
    if done:
        expect(page.locator("#strip [data-state=done]")).to_have_count(before + len(photos))


def set_strength(page: Page, strength: float) -> None:
    page.locator("#strength").fill(str(strength))


def download(page: Page, button: str = "#download") -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def requests_of(page: Page) -> list[str]:
    """The addresses of the photos that are sent from now on."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if ENHANCE in request.url else None)
    return sent


def pixels_of(page: Page, selector: str = "#stage") -> np.ndarray:
    shot = page.locator(selector).screenshot(animations="disabled")
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def line_of(page: Page) -> int:
    return int(page.get_attribute("#handle", "aria-valuenow"))
