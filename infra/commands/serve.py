"""`naturaltone serve`: the HTTP service and its page on this machine."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
from ipaddress import ip_address
from typing import TYPE_CHECKING

from naturaltone.infra.commands.shared import MODEL_FORMS, MODEL_HELP
from naturaltone.infra.exit_codes import OK
from naturaltone.pipeline.errors import UserError, first_line

if TYPE_CHECKING:
    from naturaltone.serving.service.access import Access

_READY_SECONDS = 60.0

HELP = "run an HTTP service and a web page that enhance photos"
EXAMPLE = """example: naturaltone serve      then open http://127.0.0.1:8000, on this machine

more examples:
  naturaltone serve --compare models:/naturaltone@challenger
  NATURALTONE_API_KEYS=keys.txt naturaltone serve --host 0.0.0.0

A new version that its URI names is loaded and tested beside the old one, and then replaces it without a pause. docs/serving.md
describes keys, metrics, and what belongs into a reverse proxy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--compare", metavar="MODEL", help=f"a second model, for the page and ?model=challenger: {MODEL_FORMS}"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, which only this machine can reach)",
    )
    parser.add_argument("--port", type=int, default=8000, help="TCP port to listen on (default: 8000)")
    parser.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="processes that enhance, each one photo at a time (default: one for each core)",
    )
    parser.add_argument(
        "--rate-limit",
        type=float,
        metavar="N",
        help="requests that one API key may send in a minute (default: any number)",
    )
    parser.add_argument(
        "--no-auth", action="store_true", help="let everybody in who can reach the address, without an API key"
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        default="127.0.0.1:9464",
        help="where Prometheus reads figures; `off` for nowhere (default: 127.0.0.1:9464)",
    )
    parser.add_argument(
        "--log", metavar="FILE", help="file for the log of requests, JSON lines (default: beside the command's log)"
    )


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import check_port, cores, environment, num_gpus, ray_session
    from naturaltone.pipeline.private_folder import private_folder
    from naturaltone.serving import registry
    from naturaltone.serving.service import access, app, guard, settings

    chosen = {
        settings.NO_AUTH: "1" if options.no_auth else os.environ.get(settings.NO_AUTH),
        settings.RATE_LIMIT: os.environ.get(settings.RATE_LIMIT)
        if options.rate_limit is None
        else str(options.rate_limit),
        settings.METRICS: "" if options.metrics == "off" else options.metrics,
        # Without these, MLflow tries for four minutes to reach a registry that is away.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
        settings.LOG: os.path.abspath(options.log or private_folder("logs") / "service.jsonl"),
    }
    with environment(chosen):
        _check_access(options.host, access.Access.from_environment())
        guard.Limits.from_environment()
        check_port(options.host, options.port)
        if chosen[settings.METRICS]:
            check_port(*_host_and_port(options.metrics), option="--metrics")
        replicas = cores() if options.replicas is None else options.replicas
        if not 1 <= replicas <= 3 * cores():
            raise UserError(f"--replicas {replicas}: must be between 1 and {3 * cores()}, three for each core")
        model = options.model or registry.default_model()
        version = _version(model)
        if options.compare:
            registry.load_model(options.compare)
        args = app.AppArgs(
            model=model,
            compare=options.compare or "",
            replicas=replicas,
            threads=max(1, cores() // replicas),
            network_replicas=num_gpus(),
            look_seconds=_look_seconds(),
        )
        serves = False
        try:
            with (
                environment(app.environment(args)),
                ray_session(),
                app.running(args, host=options.host, port=options.port) as address,
            ):
                print(f"serving {version} at {address} (API: {address}/docs); Ctrl-C stops it", flush=True)
                print(f"try: curl --data-binary @photo.jpg {address}/v1/enhance -o enhanced.jpg", flush=True)
                print(f"requests are logged in {chosen[settings.LOG]}", flush=True)
                if options.no_auth:
                    print("--no-auth: everybody who can reach this address may use the service", flush=True)
                serves = True
                if why := _why_not_ready(options.host, options.port):
                    print(f"naturaltone: no model serves yet: {why} (its log says more)", flush=True)
                signal.pause()
        except KeyboardInterrupt:  # the normal way to stop a server
            if not serves:
                raise
    return OK


def _why_not_ready(host: str, port: int) -> str:
    """What the service answers to who asks whether it is ready; empty if it is."""
    connection = http.client.HTTPConnection(host, port, timeout=_READY_SECONDS)  # past any proxy of the environment
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return "" if answer.status == http.client.OK else str(json.load(answer)["detail"])
    except OSError as error:
        return f"it does not answer ({error})"
    finally:
        connection.close()


def _check_access(host: str, access: Access) -> None:
    """Refuse to serve other machines without keys, unless the user says so."""
    from naturaltone.serving.service.settings import API_KEYS

    if access.keys is not None and access.is_open:
        raise UserError(f"--no-auth: {API_KEYS} is set, so keys are asked for; unset one of the two")
    if access.keys is None and not access.is_open and not _is_loopback(host):
        raise UserError(
            f"--host {host}: other machines can reach this address, and the service has no API keys; set {API_KEYS}, or "
            "say --no-auth to let everybody in"
        )


def _look_seconds() -> float:
    from naturaltone.serving.service.follower import LOOK_SECONDS
    from naturaltone.serving.service.settings import LOOK_SECONDS as VARIABLE

    given = os.environ.get(VARIABLE, str(LOOK_SECONDS))
    if not given.replace(".", "", 1).isdecimal() or float(given) < 0.1:
        raise UserError(f"{VARIABLE} '{given}': must be a number of seconds, at least 0.1")
    return float(given)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--metrics '{text}': must be HOST:PORT, as 127.0.0.1:9464, or `off`")
    return host.strip("[]"), int(port)  # an IPv6 address stands in brackets


def _version(model: str) -> str:
    """The version that serves first. If the model cannot be loaded now, the one that served last is used, with a warning."""
    from naturaltone.serving import registry
    from naturaltone.serving.service import kept

    try:
        return registry.load_model(model)[1]
    except (UserError, OSError) as error:
        found = kept.read(model)
        if found is None:
            raise
        print(
            f"naturaltone: {first_line(error)}; serving {found[1]}, which served last, until it can be loaded",
            flush=True,
        )
        return found[1]
