"""The HTTP service: a posted photo comes back enhanced, and every error is JSON."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import app
from naturaltone.training import tracking

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def address(bundle_folder: Path) -> Iterator[str]:
    with app.running(model=str(bundle_folder), host="127.0.0.1", port=local.free_port()) as address:
        yield address


def post(
    address: str, data: bytes, query: str = "", content_type: str = "image/jpeg"
) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(f"{address}/v1/enhance{query}", data=data, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_a_posted_photo_comes_back_enhanced(
    address: str, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(photo)
    status, body, headers = post(address, data)
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert headers["x-model-version"].startswith(bundle_folder.name) and headers["server-timing"].startswith(
        "total;dur="
    )
    expected = decode(Enhancer.load(str(bundle_folder)).enhance_file(data).data).pixels
    assert np.abs(decode(body).pixels.astype(int) - expected).mean() < 0.5
    assert decode(post(address, data, "?strength=0")[1]).pixels.shape == photo.shape


def test_a_form_with_a_photo_is_accepted_too(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.png"\r\n\r\n'
    form = head + to_file(photo, "PNG") + b"\r\n--x--\r\n"
    status, body, headers = post(address, form, content_type="multipart/form-data; boundary=x")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert decode(body).pixels.shape == photo.shape


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_an_answer_names_its_format(
    address: str, format: str, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    status, body, headers = post(address, to_file(photo, format))
    assert (status, headers["content-type"]) == (200, f"image/{format.lower()}")
    assert decode(body).format == format


def test_all_replicas_serve_the_version_that_the_alias_named_at_the_start(registered: str) -> None:
    bound = app.build_app(app.AppArgs(model=tracking.CHAMPION_URI))
    assert bound._bound_deployment.init_args == ("models:/naturaltone/1",)


@pytest.mark.parametrize(
    ("data", "query", "status", "error"),
    [
        (b"no photo", "", 400, "not_an_image"),
        (b"", "", 400, "not_an_image"),
        (b"no photo", "?strength=9", 422, "bad_parameter"),
        (b"no photo", "?strength=much", 422, "bad_parameter"),
    ],
)
def test_http_errors_are_json_with_a_stable_reason(
    address: str, data: bytes, query: str, status: int, error: str
) -> None:
    answered, body, _ = post(address, data, query)
    assert answered == status
    assert json.loads(body)["error"] == error and json.loads(body)["detail"]


def test_an_unknown_url_is_a_json_error_too(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/v2/enhance")
    assert caught.value.code == 404 and json.load(caught.value)["error"]


def test_an_unsupported_photo_is_415_over_http(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    status, body, _ = post(address, to_file(photo, "BMP"))
    assert (status, json.loads(body)["error"]) == (415, "unsupported_format")


def test_the_service_names_its_model_and_is_ready(address: str, bundle_folder: Path) -> None:
    with urllib.request.urlopen(f"{address}/v1/model") as response:
        model = json.load(response)
    assert model["version"].startswith(bundle_folder.name) and model["working_resolution"] == 96
    for path in ("healthz", "readyz", "docs"):
        with urllib.request.urlopen(f"{address}/{path}") as response:
            assert response.status == 200
