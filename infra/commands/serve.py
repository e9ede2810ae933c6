"""`naturaltone serve`: the HTTP service."""

from __future__ import annotations

import argparse
import contextlib
import signal

from naturaltone.infra.commands.shared import MODEL_HELP
from naturaltone.infra.exit_codes import OK

HELP = "run an HTTP service that enhances the photos it receives"
EXAMPLE = "example: naturaltone serve --model models/first --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, which only this machine can reach)",
    )
    parser.add_argument("--port", type=int, default=8000, help="TCP port to listen on (default: 8000)")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import check_port, ray_session
    from naturaltone.serving import registry
    from naturaltone.serving.service import app

    check_port(options.host, options.port)
    model = registry.resolve(options.model or registry.default_model())
    _, version = registry.load_model(model)
    with ray_session(), app.running(model=model, host=options.host, port=options.port) as address:
        print(f"serving {version} at {address}, API at {address}/docs; Ctrl-C stops it", flush=True)
        print(f"try: curl --data-binary @photo.jpg {address}/v1/enhance -o enhanced.jpg", flush=True)
        # Ctrl-C is the normal way to stop a server.
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return OK
