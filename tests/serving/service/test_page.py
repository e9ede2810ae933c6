"""The page of the HTTP service in a real browser: what it promises to photographers, to keyboards and to screen readers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from starlette.types import ASGIApp, Receive, Scope, Send

from naturaltone.infra import local
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.service.access import Access, Keys
from naturaltone.serving.service.api import create_api
from naturaltone.serving.service.guard import ENHANCE, Guard
from naturaltone.serving.service.models import Models
from naturaltone.serving.service.service import Service
from naturaltone.training.checkpoint import save_bundle
from naturaltone.training.config import TrainConfig
from naturaltone.training.networks import ToneEnhancer

KEY = "a key of this test"
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 20.0


def _chromium() -> str | None:
    return next((path for name in _CHROMIUMS if (path := shutil.which(name))), None)


pytestmark = pytest.mark.skipif(_chromium() is None, reason="no Chromium is installed; try `apt install chromium`")


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
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.read()


def _behind_prefixes(site: Site, api: ASGIApp) -> ASGIApp:
    everybody = Guard(api, access=Access(is_open=True))
    keyed = Guard(api, access=Access(keys=Keys(hashlib.sha256(KEY.encode()).hexdigest())))

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


@pytest.fixture(scope="module")
def challenger_folder(tmp_path_factory: pytest.TempPathFactory, config: TrainConfig) -> Path:
    torch.manual_seed(8)
    generator = ToneEnhancer(width=config.width, residual_blocks=config.residual_blocks)
    torch.nn.init.constant_(generator.decoder[-1].bias, -0.15)
    folder = tmp_path_factory.mktemp("challenger")
    save_bundle(folder, generator, config, working_resolution=96, lineage={"algorithm": "test"})
    return folder


@pytest.fixture(scope="module")
def site(bundle_folder: Path, challenger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    caches = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("caches"))}
    with local.environment(caches):
        models = Models()
        models.follow(model=str(bundle_folder), compare=str(challenger_folder))
        models.wait(60)
        service, found = Service(models), Site()
        port = local.free_port()
        found.address = f"http://127.0.0.1:{port}"
        app = _behind_prefixes(found, create_api(service))
        settings = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
        thread.start()
        _wait_until(lambda: server.started)
        yield found
        server.should_exit = True
        thread.join(_SECONDS)
        service.close()


def _wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium())
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
        context.set_default_timeout(1000 * _SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", check)
        page.goto(f"{site.address}{prefix}/")
        expect(page.locator("#model")).to_contain_text("Model")
        return page

    expect.set_options(timeout=1000 * _SECONDS)
    yield open_one
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def jpeg(astronaut: np.ndarray, to_file: Callable[..., bytes]) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    return to_file(astronaut, quality=92, exif=exif)


@pytest.fixture(scope="module")
def png(astronaut: np.ndarray, to_file: Callable[..., bytes]) -> bytes:
    return to_file(astronaut, "PNG")


def _file(data: bytes, name: str = "IMG_1.jpg", kind: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": data}


def _add(page: Page, *photos: dict[str, Any], done: bool = True) -> None:
    """Choose photos, and wait until they are enhanced."""
    before = page.locator("#strip li").count()
    page.set_input_files("#files", list(photos))
    if done:
        expect(page.locator("#strip [data-state=done]")).to_have_count(before + len(photos))


def _set_strength(page: Page, strength: float) -> None:
    page.locator("#strength").fill(str(strength))


def _download(page: Page, button: str = "#download") -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def _requests(page: Page) -> list[str]:
    """The addresses of the photos that are sent from now on."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if ENHANCE in request.url else None)
    return sent


def _pixels(page: Page, selector: str = "#stage") -> np.ndarray:
    shot = page.locator(selector).screenshot(animations="disabled")
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def _line(page: Page) -> int:
    return int(page.get_attribute("#handle", "aria-valuenow"))


# Ways in.


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
        chooser.value.set_files(_file(jpeg, name))
    expect(page.locator("#strip [data-state=done]")).to_have_count(2)
    expect(page.locator("#name")).to_have_text("two.jpg")


def test_a_phone_can_take_a_photo(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page(width=360, height=740, has_touch=True, is_mobile=True)
    assert page.get_attribute("#shot", "capture") == "environment"
    with page.expect_file_chooser() as chooser:
        page.tap("#camera")
    chooser.value.set_files(_file(jpeg))
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    expect(open_page().locator("#camera")).to_be_hidden()  # no touch, no camera


# The view.


def test_the_line_moves_by_mouse_and_by_finger(open_page: Callable[..., Page], jpeg: bytes) -> None:
    for options, touches in (({}, False), ({"has_touch": True, "is_mobile": True}, True)):
        page = open_page(width=500, **options)
        _add(page, _file(jpeg))
        assert _line(page) == 50
        box = page.locator("#handle").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        if touches:
            page.touchscreen.tap(x + 100, y)
        else:
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + 100, y, steps=3)
            page.mouse.up()
            page.mouse.move(x - 100, y)
        assert 65 <= _line(page) <= 80


def test_the_line_moves_by_keys(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page()
    _add(page, _file(jpeg))
    handle = page.get_by_role("slider", name="Line between before and after")
    for key, expected in (("ArrowLeft", 48), ("ArrowRight", 50), ("PageUp", 60), ("Home", 0), ("End", 100)):
        handle.press(key)
        assert _line(page) == expected


def test_the_line_parts_the_original_from_the_result(
    open_page: Callable[..., Page], site: Site, astronaut: np.ndarray, png: bytes
) -> None:
    page = open_page(height=900)
    _add(page, _file(png, "IMG_1.png", "image/png"))
    page.click("#zoom")
    enhanced = decode(site.post(png)).pixels.astype(int)
    for key, expected in (("Home", enhanced), ("End", astronaut.astype(int))):
        page.locator("#handle").press(key)
        assert _error(_photo_of(page), expected) <= 1


def _photo_of(page: Page) -> np.ndarray:
    """The pixels of a photo of 512×512 on the stage, without those that the line and the tags cover."""
    shown = _pixels(page)
    top, left = (shown.shape[0] - 512) // 2, (shown.shape[1] - 512) // 2
    return shown[top : top + 512, left : left + 512]


_INNER = (slice(64, -8), slice(64, -64))  # beside the tags and the line


def _error(shown: np.ndarray, expected: np.ndarray) -> float:
    return float(np.percentile(np.abs(shown[_INNER] - expected[_INNER]), 99))


def _mean_error(shown: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(shown[_INNER] - expected[_INNER]).mean())


@pytest.mark.parametrize("strength", [0.5, 1.25, 1.5])
def test_the_preview_shows_what_the_service_computes_at_a_strength_without_asking_it(
    open_page: Callable[..., Page], site: Site, png: bytes, strength: float
) -> None:
    page = open_page(height=900)
    _add(page, _file(png, "IMG_1.png", "image/png"))
    sent = _requests(page)
    page.click("#zoom")
    page.locator("#handle").press("Home")
    at_one = _photo_of(page)
    _set_strength(page, strength)
    expect(page.locator("#strength-value")).to_have_text(f"{strength:.2f}")
    shown, expected = _photo_of(page), decode(site.post(png, f"?strength={strength}")).pixels.astype(int)
    # Beyond 1 the service keeps some light and dark detail that the preview loses.
    assert _error(shown, expected) <= (3 if strength < 1 else 8)
    assert _mean_error(shown, expected) < _mean_error(at_one, expected) / 2
    assert sent == []


def test_the_original_shows_while_the_button_is_held(open_page: Callable[..., Page], png: bytes) -> None:
    page = open_page()
    _add(page, _file(png, "IMG_1.png", "image/png"))
    page.locator("#handle").press("Home")
    tag, button = page.locator("#right-tag"), page.locator("#hold")
    enhanced = _pixels(page)
    button.hover()
    page.mouse.down()
    expect(tag).to_have_text("Original")
    assert np.abs(_pixels(page) - enhanced).mean() > 2
    page.mouse.up()
    expect(tag).to_have_text("Enhanced")
    button.focus()
    for key in (" ", "Enter"):
        page.keyboard.down(key)
        expect(tag).to_have_text("Original")
        page.keyboard.up(key)
        expect(tag).to_have_text("Enhanced")
    button.dispatch_event("click")  # as a screen reader presses
    expect(tag).to_have_text("Original")


def test_zoom_shows_one_pixel_for_each_and_pans_by_drag_wheel_and_keys(
    open_page: Callable[..., Page], jpeg: bytes
) -> None:
    page = open_page(width=360, height=740)
    _add(page, _file(jpeg))
    photo, scroller = page.locator("#right img").first, page.locator("#scroller")

    def left() -> float:
        return photo.bounding_box()["x"]

    assert photo.bounding_box()["width"] == pytest.approx(360, abs=1)
    scroller.dblclick(position={"x": 90, "y": 100})
    assert photo.bounding_box()["width"] == 512
    begun = left()
    box = scroller.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 100, steps=4)
    page.mouse.up()
    _wait_until(lambda: left() == pytest.approx(begun - 40, abs=3))
    page.mouse.wheel(-400, 0)
    _wait_until(lambda: left() == 0)
    scroller.press("ArrowRight")
    _wait_until(lambda: left() < -10)
    page.click("#zoom")
    assert photo.bounding_box()["width"] == pytest.approx(360, abs=1)


# Ways out.


def test_a_download_is_the_services_answer_byte_for_byte_with_its_metadata(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page()
    _add(page, _file(jpeg))
    sent = _requests(page)
    assert _download(page) == ("IMG_1-enhanced.jpg", site.post(jpeg))
    assert sent == []  # at strength 1 the page has the answer already
    for strength in (0.55, 1.5, 0):
        _set_strength(page, strength)
        name, data = _download(page)
        assert (name, data) == ("IMG_1-enhanced.jpg", site.post(jpeg, f"?strength={strength}"))
        assert Image.open(io.BytesIO(data)).getexif()[0x010F] == "A camera"
    assert len(sent) == 3


def test_all_photos_are_downloaded_each_at_its_strength(
    open_page: Callable[..., Page], site: Site, jpeg: bytes, png: bytes
) -> None:
    page = open_page()
    _add(page, _file(jpeg), _file(png, "two.png", "image/png"))
    _set_strength(page, 0.5)
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
    _add(page, _file(jpeg))
    _set_strength(page, 0.5)
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


def test_a_format_that_the_browser_cannot_show_is_shown_and_keeps_its_format(
    open_page: Callable[..., Page], site: Site, astronaut: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    tiff = to_file(astronaut, "TIFF")
    page = open_page()
    _add(page, _file(tiff, "scan.tif", "image/tiff"))
    expect(page.locator("#facts")).to_contain_text("512 × 512")
    assert _pixels(page).std() > 20
    assert _download(page) == ("scan-enhanced.tif", site.post(tiff))


# The queue.


def test_a_cancelled_photo_leaves_the_service_and_the_next_one_takes_its_turn(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page("/held")
    gone = site.gone
    _add(page, *(_file(jpeg, f"{number}.jpg") for number in range(4)), done=False)
    _wait_until(lambda: site.held == 2)
    expect(page.locator("#strip [data-state=enhancing]")).to_have_count(2)
    expect(page.locator("#strip [data-state=queued]")).to_have_count(2)
    expect(page.locator("#progress-text")).to_have_text("Enhancing")
    page.wait_for_timeout(200)
    assert site.held == 2  # never more than two at once
    page.click("#cancel")
    _wait_until(lambda: site.gone == gone + 1)
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
    _add(page, _file(jpeg), done=False)
    expect(page.locator("#progress-text")).to_have_text("The service is busy. Next try in 1 s")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)
    assert time.monotonic() - begun >= 1


def test_a_photo_that_waits_for_a_busy_service_can_be_cancelled(
    open_page: Callable[..., Page], site: Site, jpeg: bytes
) -> None:
    page = open_page("/busy")
    site.refusals_left = 1
    _add(page, _file(jpeg), done=False)
    expect(page.locator("#strip [data-state=waiting]")).to_have_count(1)
    sent = _requests(page)
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
    _add(page, _file(jpeg), _file(jpeg, "two.jpg"))
    assert page.evaluate("urls.size") == 4
    page.locator("#strip .thumb").first.press("Delete")
    expect(page.locator("#name")).to_have_text("two.jpg")
    page.locator("#strip .thumb").first.press("Delete")
    expect(page.locator("#invitation")).to_be_visible()
    expect(page.locator("#choose")).to_be_focused()
    assert page.evaluate("urls.size") == 0


# Errors.


def test_an_error_is_told_in_plain_words_with_its_remedy_and_the_request(
    open_page: Callable[..., Page], jpeg: bytes
) -> None:
    page = open_page()
    _add(page, _file(b"not a photo", "notes.jpg"), done=False)
    expect(page.locator("#trouble-title")).to_have_text("This is not a photo")
    expect(page.locator("#trouble-remedy")).to_have_text("Choose another file.")
    expect(page.locator("#trouble-detail")).to_contain_text("The service says: ")
    expect(page.locator("#trouble-id")).to_contain_text(re.compile("Request [0-9a-f]{32}"))
    expect(page.locator("#status")).to_have_text("notes.jpg: This is not a photo.")
    page.click("#remove")
    expect(page.locator("#invitation")).to_be_visible()


def test_a_photo_that_is_enhanced_already_is_named_so(open_page: Callable[..., Page], site: Site, jpeg: bytes) -> None:
    page = open_page()
    _add(page, _file(site.post(jpeg)), done=False)
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
    sent = _requests(page)
    _add(page, _file(jpeg), done=False)
    expect(page.locator("#trouble-title")).to_have_text("This file is too large")
    assert sent == []


def test_a_service_that_does_not_answer_is_told_and_asked_again_by_a_button(
    open_page: Callable[..., Page], jpeg: bytes
) -> None:
    page = open_page()
    page.route(f"**{ENHANCE}", lambda route: route.abort())
    _add(page, _file(jpeg), done=False)
    expect(page.locator("#trouble-title")).to_have_text("The service does not answer")
    page.unroute(f"**{ENHANCE}")
    page.click("#again")
    expect(page.locator("#strip [data-state=done]")).to_have_count(1)


# The API key.


def test_a_missing_key_is_asked_for_and_the_photo_is_sent_again(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page("/keyed")
    _add(page, _file(jpeg), done=False)
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


# Two models.


def test_two_models_are_compared_and_each_can_be_downloaded(
    open_page: Callable[..., Page], site: Site, bundle_folder: Path, challenger_folder: Path, jpeg: bytes
) -> None:
    page = open_page()
    _add(page, _file(jpeg))
    page.check("#compare")
    expect(page.locator("#left-tag")).to_contain_text(f"Champion\n{bundle_folder.name}")
    expect(page.locator("#right-tag")).to_contain_text(f"Challenger\n{challenger_folder.name}")
    page.locator("#handle").press("Home")
    challenger = _pixels(page)
    page.locator("#handle").press("End")
    assert np.abs(_pixels(page) - challenger).mean() > 2
    page.select_option("#which", "challenger")
    expect(page.locator("#answer")).to_contain_text(challenger_folder.name)
    assert _download(page)[1] == site.post(jpeg, "?model=challenger")
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
    _add(page, _file(jpeg))
    expect(page.locator("#compare")).to_be_hidden()


# Everybody can use it, everywhere.


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
    chooser.value.set_files(_file(jpeg))
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
    _add(page, _file(jpeg))
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
        _add(page, _file(jpeg))
        check()
        page.check("#compare")
        expect(page.locator("#which")).to_be_visible()
        check()
        _add(page, _file(b"not a photo", "notes.jpg"), done=False)
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
    _add(page, *(_file(jpeg, f"a-photo-with-a-very-long-name-{'x' * 80}-{number}.jpg") for number in range(5)))
    check()
    page.tap("#compare")
    expect(page.locator("#which")).to_be_visible()
    check()
    page.tap("#zoom")
    check()
    _add(page, _file(b"not a photo", "notes.jpg"), done=False)
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
        _add(page, _file(jpeg), done=False)
        expect(page.locator("#strip [data-state=enhancing]")).to_have_count(1)
        animations = "document.getAnimations().some(each => each.effect.getTiming().iterations === Infinity)"
        assert page.evaluate(animations) is moves


def test_the_page_works_at_the_root_too_and_links_to_the_api(open_page: Callable[..., Page], jpeg: bytes) -> None:
    page = open_page("")
    _add(page, _file(jpeg))
    page.get_by_role("link", name="The API").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("the API")


def test_the_page_breaks_no_rule_of_its_strict_policy(site: Site) -> None:
    # `open_page` fails each test whose page breaks the policy. So here is only whether the policy is strict.
    with contextlib.closing(urllib.request.urlopen(f"{site.address}/open/", timeout=_SECONDS)) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"""(?:src|href)=["'](?:https?:|//|/)""", html)
