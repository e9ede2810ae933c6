"""The API does what its description says: photos come back enhanced, and every error is JSON with a stable word."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from naturaltone.infra.commands import serve
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import api
from naturaltone.serving.service import settings as names
from naturaltone.serving.service.guard import Guard
from naturaltone.serving.service.models import Models
from naturaltone.serving.service.service import Service
from tests.pipeline.photo.files import chunk as png_chunk
from tests.serving.service.conftest import KEY, Server, access, guarded, serving

ToFile = Callable[..., bytes]


def test_a_posted_photo_comes_back_as_the_enhancer_makes_it(
    server: Server, enhancer: Enhancer, photo: np.ndarray, to_file: ToFile
) -> None:
    data = to_file(photo)
    answer = server.enhance(data, "?strength=0.7")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.body == enhancer.enhance_file(data, strength=0.7).data
    assert answer.headers["x-model-version"] == enhancer.version and answer.headers["x-request-id"]
    stages = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["wait", "decode", "network", "apply", "encode", "total"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_an_answer_names_its_own_format(server: Server, format: str, photo: np.ndarray, to_file: ToFile) -> None:
    answer = server.enhance(to_file(photo, format), content_type="application/octet-stream")
    assert (answer.status, answer.headers["content-type"]) == (200, f"image/{format.lower()}")
    assert decode(answer.body).format == format


@pytest.mark.parametrize("name", ["p.png", "../../etc/x", "a%0d%0aX-Evil: 1", "ü.png", '\\"; name=\\"other', "x" * 999])
def test_a_form_with_a_photo_is_accepted_whatever_its_file_is_called(
    server: Server, name: str, photo: np.ndarray, to_file: ToFile
) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'.encode()
    answer = server.enhance(
        head + to_file(photo, "PNG") + b"\r\n--x--\r\n", content_type="multipart/form-data; boundary=x"
    )
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert not any(name in value for value in answer.headers.values()) and "x-evil" not in answer.headers


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "avif"])
def test_another_format_can_be_asked_for(server: Server, format: str, photo: np.ndarray, to_file: ToFile) -> None:
    answer = server.enhance(to_file(photo, "TIFF"), f"?format={format}")
    assert (answer.status, answer.headers["content-type"]) == (200, f"image/{format}")
    assert decode(answer.body).format == format.upper()
    unchanged = server.enhance(to_file(photo, "TIFF"), f"?format={format}&strength=0")
    assert decode(unchanged.body).pixels.shape == photo.shape


def test_quality_changes_the_size(server: Server, photo: np.ndarray, to_file: ToFile) -> None:
    data = to_file(photo, quality=90)
    sizes = [len(server.enhance(data, f"?quality={quality}").body) for quality in (10, 60, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]


def test_strength_0_gives_the_same_bytes(server: Server, photo: np.ndarray, to_file: ToFile) -> None:
    data = to_file(photo)
    assert server.enhance(data, "?strength=0").body == data


def test_the_challenger_answers_with_its_own_version(server: Server, photo: np.ndarray, to_file: ToFile) -> None:
    model = json.loads(server.ask("/v1/model").body)
    answer = server.enhance(to_file(photo), "?model=challenger")
    assert answer.headers["x-model-version"] == model["challenger"]["version"] != model["version"]


@pytest.mark.parametrize(
    "query",
    [
        "strength=9", "strength=-0.1", "strength=much", "strength=nan", "strength=inf", "strength=",
        "format=tiff", "format=JPEG", "format=../x", "format=", "quality=0", "quality=101", "quality=9.5",
        "model=other", "model=", "strenght=0.5", "strength=1&x=%0d%0aSet-Cookie:a", "%FF=1", "strength=%00",
    ],
)  # fmt: skip
def test_a_bad_parameter_is_422_and_named(server: Server, query: str, photo: np.ndarray, to_file: ToFile) -> None:
    """Also an unknown one: a misspelt `strength` must not silently give the full strength."""
    answer = server.enhance(to_file(photo), f"?{query}")
    assert (answer.status, answer.error()) == (422, "bad_parameter") and "set-cookie" not in answer.headers


def bomb(side: int = 60_000) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "not_an_image"),
        (b"no photo", 400, "not_an_image"),
        (b"PK\x03\x04" + bytes(100), 400, "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", 400, "not_an_image"),
        (bomb(), 413, "too_large"),
    ],
)
def test_what_is_no_photo_is_refused(server: Server, data: bytes, status: int, reason: str) -> None:
    answer = server.enhance(data)
    assert answer.error() == reason or answer.status == 415
    assert answer.status in (status, 415)


def test_other_refusals_have_their_own_status(server: Server, photo: np.ndarray, to_file: ToFile) -> None:
    data = to_file(photo)
    for refused, status, reason in (
        (to_file(photo, "BMP"), 415, "unsupported_format"),
        (to_file(photo[:10, :10]), 400, "too_small"),
        (data[: len(data) // 2], 400, "truncated"),
        (server.enhance(data).body, 409, "already_enhanced"),
    ):
        answer = server.enhance(refused)
        assert (answer.status, answer.error()) == (status, reason)


def test_a_transparent_photo_cannot_become_a_jpeg(server: Server, photo: np.ndarray, to_file: ToFile) -> None:
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    answer = server.enhance(to_file(np.dstack([photo, alpha]), "PNG"), "?format=jpeg")
    assert (answer.status, answer.error()) == (422, "bad_parameter")
    assert decode(server.enhance(to_file(np.dstack([photo, alpha]), "PNG"), "?format=webp").body).has_alpha


@pytest.mark.parametrize("path", ["/v2/enhance", "/docs/", "/v1/enhance/", "/page/../api.py", "/page/%2e%2e%2fapi.py",
                                  "/page/none.js", "//v1/model", "/v1/enhance%0A", "/redoc", "/%00"])  # fmt: skip
def test_an_unknown_address_is_404_and_nothing_redirects(server: Server, path: str) -> None:
    """A redirect would name the host of the request, which is wrong behind a proxy."""
    answer = server.ask(path)
    assert (answer.status, answer.error()) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/enhance"), ("PUT", "/v1/enhance"), ("POST", "/v1/model"),
                                              ("DELETE", "/"), ("TRACE", "/healthz")])  # fmt: skip
def test_a_wrong_method_is_405_and_names_the_right_one(server: Server, method: str, path: str) -> None:
    answer = server.ask(path, method=method)
    assert (answer.status, answer.error()) == (405, "method_not_allowed") and answer.headers["allow"] in ("GET", "POST")


def test_the_state_is_told(server: Server, enhancer: Enhancer) -> None:
    model = json.loads(server.ask("/v1/model").body)
    assert model["version"] == enhancer.version and model["working_resolution"] == 96
    assert model["parameters"] == enhancer.bundle.num_parameters and model["refused"] is None
    assert model["description"]["lineage"] == {"algorithm": "test"} and model["following"]
    assert model["needs_key"] is True and model["max_bytes"] == 100 * 2**20 and model["max_megapixels"] == 200
    assert json.loads(server.ask("/healthz").body) == {"status": "alive"}
    assert json.loads(server.ask("/readyz").body) == {"status": "ready"}
    assert not serve._why_not_ready(server.host, server.port)


def test_without_a_key_no_private_folder_or_store_is_told(server: Server, bundle_folder: object) -> None:
    answer = server.ask("/v1/model", authorization="")
    model = json.loads(answer.body)
    assert model["description"] is None and model["following"] is None and model["needs_key"] is True
    assert str(bundle_folder).encode() not in answer.body and server.enhance(b"x", authorization="").status == 401


def test_without_a_model_the_state_and_photos_are_503_but_the_process_lives(photo: np.ndarray, to_file: ToFile) -> None:
    service = Service(Models())
    with guarded(service) as empty:
        assert "loaded" in serve._why_not_ready(empty.host, empty.port), "the command says so"
        for answer in (empty.ask("/readyz"), empty.ask("/v1/model"), empty.enhance(to_file(photo))):
            assert (answer.status, answer.error(), answer.headers["retry-after"]) == (503, "no_model", "1")
        assert empty.ask("/healthz").status == 200 and empty.ask("/").status == 200
    service.close()


def direct(app: object, scope: Scope, body: bytes) -> tuple[int, bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "POST", "path": "/v1/enhance", "query_string": b"", "headers": []} | scope
    asyncio.run(app(whole, receive, send))  # type: ignore[operator]
    return sent[0]["status"], sent[1]["body"]


def test_without_the_guard_in_front_nothing_is_enhanced(service: Service, photo: np.ndarray, to_file: ToFile) -> None:
    """On a cluster whose machines lack the variable, there would be no limits and no keys."""
    status, body = direct(api.create_api(service), {}, to_file(photo))
    assert status == 503 and names.PROXY_CALLBACK.encode() in body
    status, body = direct(api.create_api(service), {"naturaltone.body": to_file(photo)}, b"")
    assert (status, json.loads(body)["error"]) == (401, "unauthorized")


def test_a_bug_is_500_and_tells_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(*_: object, **__: object) -> None:
        raise RuntimeError("private detail")

    monkeypatch.setattr(service, "enhance", bug)
    with guarded(service) as server:
        answer = server.enhance(b"x")
        assert (answer.status, answer.error()) == (500, "internal")
        assert b"private" not in answer.body and server.ask("/healthz").status == 200


@settings(max_examples=40)
@given(damage=st.data())
def test_a_damaged_photo_is_never_a_bug(
    damage: st.DataObject, server: Server, photo: np.ndarray, to_file: ToFile
) -> None:
    data = bytearray(to_file(photo[:32, :40], damage.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]))))
    for _ in range(damage.draw(st.integers(1, 8))):
        data[damage.draw(st.integers(0, len(data) - 1))] = damage.draw(st.integers(0, 255))
    answer = server.enhance(bytes(data[: damage.draw(st.integers(1, len(data)))]))
    assert answer.status == 200 or (answer.error() and answer.status in (400, 409, 413, 415))


# The description


def test_the_description_names_the_body_the_media_types_and_every_status(server: Server) -> None:
    openapi = json.loads(server.ask("/openapi.json").body)
    assert set(openapi["paths"]) == {"/v1/enhance", "/v1/model", "/healthz", "/readyz"}
    enhance = openapi["paths"]["/v1/enhance"]["post"]
    photos = {"image/jpeg", "image/png", "image/webp", "image/tiff", "image/avif", "image/heic"}
    assert set(enhance["requestBody"]["content"]) == photos | {"application/octet-stream", "multipart/form-data"}
    assert set(enhance["responses"]["200"]["content"]) == photos
    statuses = {"200", "400", "401", "404", "405", "408", "409", "413", "415", "422", "429", "500", "503"}
    assert set(enhance["responses"]) == statuses
    for status in statuses - {"200"}:
        content = enhance["responses"][status]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith("/Error"), status
    assert {each["name"] for each in enhance["parameters"]} == {"strength", "format", "quality", "model"}
    assert openapi["servers"] == [{"url": ".", "description": "this service, also below a prefix"}]


def test_every_way_of_naming_a_key_is_declared(server: Server) -> None:
    """A generated client can only send a key whose scheme the description defines."""
    openapi = json.loads(server.ask("/openapi.json").body)
    used = {name for each in openapi["paths"]["/v1/enhance"]["post"]["security"] for name in each}
    assert used <= set(openapi["components"].get("securitySchemes", {}))


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_load_nothing_from_another_host(server: Server, path: str) -> None:
    answer = server.ask(path, authorization="")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy == api.PAGE_POLICY and "unsafe" not in policy and "http" not in policy and "*" not in policy
    loaded = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", answer.body.decode())
    assert loaded
    for url in loaded:
        assert not re.match(r"(?:[a-z]+:)?//|/|data:", url), "absolute URLs break below a prefix"
        if not url.startswith("#"):
            assert server.ask("/" + url.removeprefix("./"), authorization="").status == 200, url


def test_all_works_below_a_prefix(service: Service, photo: np.ndarray, to_file: ToFile) -> None:
    app = Guard(api.create_api(service), access=access(KEY))
    with serving(app, root_path="/photos") as server:
        server.headers = {"authorization": f"Bearer {KEY}"}
        for path in ("/", "/docs", "/v1/model", "/openapi.json", "/healthz", "/page/docs.css"):
            assert server.ask(path).status == 200, path
        assert server.enhance(to_file(photo)).status == 200 and server.enhance(b"", authorization="").status == 401


def test_a_proxy_may_strip_the_prefix_or_leave_it(service: Service, photo: np.ndarray, to_file: ToFile) -> None:
    inner = Guard(api.create_api(service), access=access(KEY))

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, "root_path": "/photos"}, receive, send)

    with serving(mounted) as server:
        server.prefix, server.headers = "/photos", {"authorization": f"Bearer {KEY}"}
        assert server.ask("/v1/model").status == 200 and server.enhance(to_file(photo)).status == 200
        assert server.enhance(to_file(photo), authorization="").status == 401


def test_an_avif_and_a_heic_are_told_from_an_unknown_file() -> None:
    for brand in (b"heic", b"heix", b"mif1"):
        assert api._media_type(b"\0\0\0\x18ftyp" + brand) == "image/heic"
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "AVIF")
    assert api._media_type(buffer.getvalue()) == "image/avif" and api._media_type(b"x") == "application/octet-stream"
