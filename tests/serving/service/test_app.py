"""The service under Ray Serve: the guard stands before it, models change in place, and clients that go free their slots."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ray import serve

from naturaltone.infra import local
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import app
from naturaltone.training.checkpoint import load_bundle, save_bundle
from naturaltone.training.config import TrainConfig
from tests.serving.service.attacks import attacks, insist

pytestmark = pytest.mark.usefixtures("ray_cluster")

_LOOK_SECONDS = 0.3


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Path:
    """The folder of the model that is served."""
    folder = tmp_path_factory.mktemp("served") / "served"
    shutil.copytree(bundle_folder, folder)
    return folder


@pytest.fixture(scope="module")
def address(served: Path) -> Iterator[str]:
    args = app.AppArgs(model=str(served), look_seconds=_LOOK_SECONDS)
    with app.running(args, host="127.0.0.1", port=local.free_port()) as address:
        yield address


def post(address: str, data: bytes, query: str = "", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    headers = {"Content-Type": "image/jpeg"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{address}/v1/enhance{query}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def model_of(address: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{address}/v1/model") as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def replicas() -> set[int]:
    """The processes of the replicas."""
    found = psutil.process_iter(["cmdline"])
    return {each.pid for each in found if (each.info["cmdline"] or [""])[0].startswith("ray::ServeReplica")}


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_posted_photo_comes_back_enhanced_and_says_by_what(
    address: str, served: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(photo)
    status, body, headers = post(address, data, x_request_id="mine-1")
    assert (status, headers["content-type"], headers["x-request-id"]) == (200, "image/jpeg", "mine-1")
    assert headers["x-model-version"].startswith(f"{served.name}-")
    assert {part.partition(";")[0].strip() for part in headers["server-timing"].split(",")} == {
        *("wait", "decode", "network", "apply", "encode", "total")
    }
    assert body == Enhancer.load(str(served)).enhance_file(data).data, "as the enhancer alone"


def test_a_form_works_through_the_proxy_too(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.png"\r\n\r\n'
    form = head + to_file(photo, "PNG") + b"\r\n--x--\r\n"
    status, body, headers = post(address, form, Content_Type="multipart/form-data; boundary=x")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert decode(body).pixels.shape == photo.shape


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/v1/enhance?strength=9", 422, "bad_parameter"), ("/v1/enhance", 400, "not_an_image"), ("/v2", 404, "not_found")],
)
def test_errors_are_json_with_a_stable_reason(address: str, path: str, status: int, error: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}{path}", data=b"no photo")
    answer = json.load(caught.value)
    assert (caught.value.code, answer["error"]) == (status, error) and answer["detail"]
    assert "x-naturaltone-reason" not in caught.value.headers


def test_the_page_the_description_and_the_health_answer(address: str) -> None:
    for path in ("", "docs", "openapi.json", "healthz", "readyz", "v1/model"):
        with urllib.request.urlopen(f"{address}/{path}") as answer:
            assert answer.status == 200


def test_stalled_uploads_take_no_slot(address: str, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    host, port = address.removeprefix("http://").split(":")
    stalled = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        for connection in stalled:
            connection.sendall(b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nbegin")
        assert post(address, to_file(photo))[0] == 200
    finally:
        for connection in stalled:
            connection.close()


def test_a_client_cannot_switch_off_the_limits_of_serve(
    address: str, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    # With a time-out of a nanosecond, Serve itself would answer 408.
    assert post(address, to_file(photo), X_Request_Timeout_Seconds="0.000000001")[0] == 200


def test_too_many_requests_are_refused_at_once_and_the_others_succeed(
    address: str, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(np.tile(photo, (8, 8, 1)))
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda _: post(address, data), range(64)))
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 503}
    for status, body, headers in answers:
        if status == 503:
            assert json.loads(body)["error"] == "overloaded" and int(headers["retry-after"]) >= 1


def test_a_photo_of_more_bytes_than_a_message_may_have_by_default_comes_back(
    address: str, to_file: Callable[..., bytes]
) -> None:
    noise = to_file(np.random.default_rng(1).integers(0, 256, (1400, 1400, 3), np.uint8), format="PNG")
    assert len(noise) > 5 * 2**20
    status, body, _ = post(address, noise)
    assert status == 200 and len(body) > 4 * 2**20


def test_clients_that_go_away_in_the_middle_leave_a_service_that_serves_on(
    address: str, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data = to_file(np.tile(photo, (20, 20, 1)))
    host, port = address.removeprefix("http://").split(":")
    for _ in range(12):  # three times as many as the replica takes
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("POST", "/v1/enhance", data)
        time.sleep(0.05)
        connection.close()
    wait_until(lambda: post(address, to_file(photo))[0] == 200)


def test_a_new_model_replaces_the_old_one_while_requests_go_on(
    address: str, served: Path, config: TrainConfig, photo: np.ndarray, to_file: Callable[..., bytes], tmp_path: Path
) -> None:
    data, before = to_file(photo), str(model_of(address)["version"])
    other = load_bundle(served)
    with torch.no_grad():
        other.generator.decoder[-1].bias += 0.05
    save_bundle(tmp_path, other.generator, config, working_resolution=96, lineage={"algorithm": "other"})
    new = f"{served.name}-{load_bundle(tmp_path).digest}"
    versions = [before]

    def swap() -> None:
        for path in tmp_path.iterdir():
            shutil.copy(path, served / path.name)

    with concurrent.futures.ThreadPoolExecutor(1) as aside:
        swapped = aside.submit(swap)
        deadline = time.monotonic() + 30
        while versions[-1] != new:
            assert time.monotonic() < deadline, versions[-1]
            status, _, headers = post(address, data)
            assert status == 200, "no request fails"
            versions.append(headers["x-model-version"])
        swapped.result()
    assert set(versions) == {before, new}
    # A damaged version is refused, and /v1/model says so.
    weights = served / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    wait_until(lambda: model_of(address)["refused"] is not None)
    assert model_of(address)["version"] == new and post(address, data)[2]["x-model-version"] == new


def test_bad_user_config_leaves_the_models_and_a_second_model_comes_and_goes(
    address: str, served: Path, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    deployed = app.build_app(app.AppArgs(model=str(served), look_seconds=_LOOK_SECONDS))

    def configure(config: dict[str, object]) -> None:
        deployed._bound_deployment._deployment_config.user_config = config
        serve.run(deployed, name=app.APP_NAME, route_prefix="/")

    configure({"no": "model"})
    assert post(address, to_file(photo))[0] in (200, 503)
    configure({"model": str(bundle_folder), "compare": str(bundle_folder), "look_seconds": _LOOK_SECONDS})
    wait_until(lambda: model_of(address)["challenger"] is not None)
    assert post(address, to_file(photo), "?model=challenger")[0] == 200


def test_with_the_network_in_replicas_of_its_own_photos_come_out_the_same(
    address: str, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    args = app.AppArgs(model=str(bundle_folder), network_replicas=1, slots=4, look_seconds=_LOOK_SECONDS)
    serve.run(app.build_app(args), name="batched", route_prefix="/batched")
    try:
        data = [to_file(photo), to_file(photo[:, ::-1]), to_file(np.ascontiguousarray(photo.swapaxes(0, 1)))] * 2
        with concurrent.futures.ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda each: post(f"{address}/batched", each), data))
        assert [status for status, _, _ in answers] == [200] * len(data)
        enhancer = Enhancer.load(str(bundle_folder))
        for (_, body, headers), each in zip(answers, data, strict=True):
            expected = decode(enhancer.enhance_file(each).data).pixels.astype(int)
            assert np.abs(decode(body).pixels - expected).max() <= 2, "batches round differently, by a hair"
            assert headers["x-model-version"] == enhancer.version
    finally:
        serve.delete("batched")


def test_a_second_service_in_a_cluster_is_refused_since_nobody_would_listen_at_its_address(address: str) -> None:
    with pytest.raises(UserError, match="runs in this cluster already"):
        with app.running(app.AppArgs(), host="127.0.0.1", port=local.free_port()):
            pass
    with urllib.request.urlopen(f"{address}/readyz") as answer:
        assert answer.status == 200, "the first one serves on"


def test_all_arguments_reach_the_deployments() -> None:
    args = app.AppArgs(model="pretrained", compare="s3://x/y", replicas=3, min_replicas=1, slots=2)
    deployment = app.build_app(args)._bound_deployment
    config = deployment._deployment_config
    assert config.user_config == {"model": "pretrained", "compare": "s3://x/y", "look_seconds": 10.0}
    assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (1, 3)
    assert 0 < config.max_queued_requests <= 2 * 2 * 3


def test_garbage_gets_an_error_of_its_sender_and_no_replica_dies(address: str, photo: np.ndarray) -> None:
    before = replicas()
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        statuses = list(clients.map(lambda attack: (insist(address, attack), attack.name), attacks(photo, 240, seed=1)))
    # 200: some damage leaves a photo a photo. 0: the client itself closed the connection.
    wrong = [(status, name) for status, name in statuses if status not in (0, 200) and not 400 <= status < 500]
    assert not wrong
    assert replicas() == before
