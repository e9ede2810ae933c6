"""`naturaltone serve` refuses a port in use."""

from __future__ import annotations

import socket
from pathlib import Path


def test_serve_refuses_a_port_in_use(refused, bundle_folder: Path) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", "--model", str(bundle_folder), "--port", str(port))
    assert f"--port {port}: cannot listen on this address" in line and "choose another port" in line
