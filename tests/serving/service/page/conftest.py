"""The page in a real Chromium, over the real service below several prefixes."""

from __future__ import annotations

import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from starlette.types import ASGIApp, Receive, Scope, Send

from naturaltone.infra import local
from naturaltone.serving.service.access import Access
from naturaltone.serving.service.api import create_api
from naturaltone.serving.service.guard import ENHANCE, Guard
from naturaltone.serving.service.service import Service
from tests.serving.service.conftest import KEY, access, models, save_model, serving

SECONDS = 20.0  # no step of a test takes longer
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass
class Site:
    """The service below several prefixes, as a proxy would serve it.

    /open: for everybody. /keyed: with an API key. /busy: refuses the first photo as too busy. /held: answers no photo.
    """

    address: str = ""
    held: int = 0
    gone: int = 0
    refusals_left: int = 0
    seen: list[str] = field(default_factory=list)

    def post(self, data: bytes, query: str = "") -> bytes:
        request = urllib.request.Request(f"{self.address}/open{ENHANCE}{query}", data=data)
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.read()


def _behind_prefixes(site: Site, api: ASGIApp) -> ASGIApp:
    everybody = Guard(api, access=Access(is_open=True))
    keyed = Guard(api, access=access(KEY))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        prefix, path = re.fullmatch(r"(/open|/keyed|/busy|/held)?(/.*)", scope["path"]).groups()
        scope = {**scope, "path": path, "raw_path": path.encode()}
        is_photo = path == ENHANCE
        if is_photo and prefix == "/held":
            site.held += 1
            while (await receive())["type"] != "http.disconnect":
                pass
            site.held -= 1
            site.gone += 1
        elif is_photo and prefix == "/busy" and site.refusals_left:
            site.refusals_left -= 1
            await _answer_busy(receive, send)
        else:
            await (keyed if prefix == "/keyed" else everybody)(scope, receive, send)

    return app


async def _answer_busy(receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"error": "overloaded", "detail": "try again soon"}'})


@pytest.fixture(scope="package")
def challenger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "challenger", seed=8, bias=-0.15)


@pytest.fixture(scope="package")
def site(bundle_folder: Path, challenger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with local.environment({"NATURALTONE_CACHE": str(tmp_path_factory.mktemp("cache"))}):
        service, found = Service(models(str(bundle_folder), str(challenger_folder))), Site()
    with serving(_behind_prefixes(found, create_api(service))) as server:
        found.address = server.address
        yield found
    service.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = next((path for name in _CHROMIUMS if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed; try `apt install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(prefix, width=…, …)`: the page in a new window. Afterwards: no script failed, nothing broke the CSP,
    and nothing came from another host."""
    troubles: list[str] = []
    contexts: list[BrowserContext] = []

    def note(message: Any) -> None:
        # The browser reports each answer with an error status; tests of errors make those on purpose.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            troubles.append(message.text)

    def check(request: Any) -> None:
        if not request.url.startswith((site.address, f"blob:{site.address}")):
            troubles.append(request.url)

    def open_one(prefix: str = "/open", *, width: int = 1200, height: int = 800, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(1000 * SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", check)
        page.goto(f"{site.address}{prefix}/")
        expect(page.locator("#model")).to_contain_text("Model")
        return page

    expect.set_options(timeout=1000 * SECONDS)
    yield open_one
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="package")
def jpeg(astronaut: np.ndarray, to_file: Callable[..., bytes]) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    return to_file(astronaut, quality=92, exif=exif)


@pytest.fixture(scope="package")
def png(astronaut: np.ndarray, to_file: Callable[..., bytes]) -> bytes:
    return to_file(astronaut, "PNG")
