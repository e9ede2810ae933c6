"""The RayJob of a slot, against a real HTTP server that answers as the API server does."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.infra import exit_codes, rayjob
from naturaltone.pipeline.errors import RunFailed, UserError

TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "retrain", "labels": {"a": "b"}, "uid": "1", "resourceVersion": "7"},
    "spec": {"suspend": True, "entrypoint": "naturaltone retrain /etc/naturaltone/retrain.toml\n", "backoffLimit": 5},
    "status": {"jobDeploymentStatus": "Suspended"},
}
OWNER = {"name": "retrain-29399640", "uid": "42"}


@dataclass
class Server:
    """RayJobs by name, as an API server keeps them. refuses: (status, reason) of the next answers to POST."""

    url: str
    token: str = "secret-token"
    objects: dict[str, Any] = field(default_factory=lambda: {"retrain": TEMPLATE})
    refuses: list[tuple[int, str]] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, dict[str, Any]]:
        prefix = "/apis/ray.io/v1/namespaces/photos/rayjobs"
        if token != f"Bearer {self.token}":
            return 401, {"reason": "Unauthorized", "message": "Unauthorized"}
        if method == "POST" and path == prefix:
            name = body["metadata"]["name"]
            if self.refuses:
                status, reason = self.refuses.pop(0)
                return status, {"reason": reason, "message": f"{reason}: rayjobs"}
            if name in self.objects:
                return 409, {"reason": "AlreadyExists", "message": f"rayjobs {name} already exists"}
            self.objects[name] = body
            return 201, body
        found = self.objects.get(path.removeprefix(f"{prefix}/"))
        return (200, found) if found else (404, {"reason": "NotFound", "message": "rayjobs not found"})


@pytest.fixture
def server() -> Iterator[Server]:
    yield from _serve(None)


def _serve(tls: ssl.SSLContext | None) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body: Any = None) -> None:
            status, content = state.answer(self.command, self.path, self.headers["Authorization"], body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_POST(self) -> None:
            self.do_GET(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    state = Server(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()


def api_of(server: Server, token: str = "secret-token") -> rayjob.Api:
    return rayjob.Api(rayjobs=f"{server.url}/apis/ray.io/v1/namespaces/photos/rayjobs", token=token)


def test_the_rayjob_is_a_running_copy_that_is_named_by_its_slot(server: Server) -> None:
    assert rayjob.create(api_of(server), "retrain", "2026-11-24", OWNER) == "RayJob retrain-2026-11-24 created"
    assert server.objects["retrain-2026-11-24"] == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": "retrain-2026-11-24",
            "labels": {"a": "b"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "retrain-29399640", "uid": "42"}],
        },
        "spec": {
            "suspend": False,
            "entrypoint": "naturaltone retrain /etc/naturaltone/retrain.toml --slot 2026-11-24",
            "backoffLimit": 5,
        },
    }


def test_two_pods_of_a_slot_make_one_rayjob_and_both_succeed(server: Server) -> None:
    said = [rayjob.create(api_of(server), "retrain", "2026-11-24", OWNER) for _ in range(2)]
    assert said == ["RayJob retrain-2026-11-24 created", "RayJob retrain-2026-11-24 exists already; nothing to do"]
    assert len(server.objects) == 2


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (403, "Forbidden", UserError),
        (422, "Invalid", UserError),
        (409, "Conflict", RunFailed),  # not AlreadyExists: nothing was made
        (429, "TooManyRequests", RunFailed),
        (500, "InternalError", RunFailed),
    ],
)
def test_a_refusal_is_never_taken_for_success(
    server: Server, status: int, reason: str, expected: type[Exception]
) -> None:
    server.refuses = [(status, reason)]
    with pytest.raises(expected, match=f"answers {status}: {reason}"):
        rayjob.create(api_of(server), "retrain", "2026-11-24", OWNER)
    assert "retrain-2026-11-24" not in server.objects


def test_a_missing_template_and_a_wrong_token_are_named(server: Server) -> None:
    with pytest.raises(UserError, match="rayjobs/other answers 404"):
        rayjob.create(api_of(server), "other", "2026-11-24", OWNER)
    with pytest.raises(UserError, match="answers 401"):
        rayjob.create(api_of(server, token="old"), "retrain", "2026-11-24", OWNER)


def test_an_api_server_that_is_away_is_tried_again_later() -> None:
    with pytest.raises(RunFailed, match="try again later"):
        rayjob.create(rayjob.Api(rayjobs="http://127.0.0.1:9/rayjobs", token=""), "retrain", "2026-11-24", OWNER)


def test_a_name_that_kuberay_refuses_is_refused_here() -> None:
    template = {**TEMPLATE, "metadata": {"name": "r" * 37}}
    with pytest.raises(UserError, match="at most 47 characters"):
        rayjob.rayjob_of(template, "2026-11-24", OWNER)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1)), st.floats(0, 1e5))
def test_the_slot_is_the_day_of_the_schedule_however_late_the_pod_starts(scheduled: datetime, late: float) -> None:
    minute = int(scheduled.replace(tzinfo=UTC).timestamp()) // 60
    # The name that Kubernetes' CronJob controller gives its Job.
    slot = rayjob.slot_of(f"retrain-{minute}", now=60.0 * minute + late)
    assert slot == f"{scheduled:%Y-%m-%d}"


@pytest.mark.parametrize("job", ["retrain-by-hand", "retrain-1", "29399640", "retrain-2026-11-24"])
def test_a_job_that_a_person_made_has_the_slot_of_today(job: str) -> None:
    assert rayjob.slot_of(job, now=datetime(2026, 11, 27, 23, 59, tzinfo=UTC).timestamp()) == "2026-11-27"


def make_certificate(certificate: Path, key: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("a certificate takes openssl")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    subprocess.run(command, check=True, capture_output=True)


def test_a_pod_finds_the_api_server_and_checks_its_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    make_certificate(account / "ca.crt", tmp_path / "key.pem")
    (account / "namespace").write_text("photos")
    (account / "token").write_text("secret-token\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(account / "ca.crt", tmp_path / "key.pem")
    for server in _serve(tls):
        port = server.url.rpartition(":")[2]
        pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "JOB_UID": "42"}
        pod["JOB_NAME"] = f"retrain-{int(datetime(2026, 11, 24, 2, tzinfo=UTC).timestamp()) // 60}"
        assert rayjob.main(["retrain"], pod, account) == exit_codes.OK
        assert capsys.readouterr().out == "RayJob retrain-2026-11-24 created\n"
        server.refuses = [(503, "ServiceUnavailable")]
        assert rayjob.main(["retrain"], pod, account) == exit_codes.RUN_FAILED
        assert capsys.readouterr().err.startswith("naturaltone: the API server at https://127.0.0.1:")
        make_certificate(account / "ca.crt", tmp_path / "other-key.pem")
        assert rayjob.main(["retrain"], pod, account) == exit_codes.RUN_FAILED, "another authority's certificate"
        assert "certificate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        ([], {}, "give the name"),
        (["retrain"], {"JOB_UID": "42"}, "JOB_NAME: not set"),
        (["retrain"], {"JOB_NAME": "retrain-1", "JOB_UID": "42"}, "only in a pod"),
    ],
)
def test_outside_of_a_pod_one_line_says_what_is_missing(
    arguments: list[str], environment: dict[str, str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rayjob.main(arguments, environment, tmp_path) == exit_codes.WRONG_USAGE
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
