"""Asks the cluster of `RAY_ADDRESS` whether it lets us in.

Ray itself tries for 20 to 80 seconds, and then does not say what is wrong.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import grpc

from naturaltone.pipeline.errors import RunFailed, UserError

ADDRESS, AUTH_MODE = "RAY_ADDRESS", "RAY_AUTH_MODE"
TOKEN, TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_SECONDS = 10.0
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # what `ray health-check` calls
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\s]+):\d{1,5}")


def enter(address: str) -> None:
    """Check that the cluster at `address` answers and lets us in.

    If the cluster asks for a token and this machine has it, this process sends it from now on. Ray by itself sends a token
    only with RAY_AUTH_MODE=token. `UserError` for a wrong address or token, `RunFailed` if nothing answers.
    """
    if address == "auto":  # the cluster that `ray start` started on this machine; only Ray knows where it listens
        return
    if not _HOST_AND_PORT.fullmatch(address):
        raise UserError(
            f"{ADDRESS} '{address}': must be the HOST:PORT of the cluster's head, as 10.0.0.1:6379 "
            "(`ray start --head` prints it)"
        )
    if not asks_for_token(address):
        return
    token = find_token()
    if token is None:
        raise UserError(
            f"{ADDRESS} '{address}': the cluster asks for a token, and this machine has none; set {AUTH_MODE}=token "
            f"and {TOKEN} to the head's token (`ray get-auth-token` there prints it), or {TOKEN_FILE} to a file that holds it"
        )
    if asks_for_token(address, token):
        raise UserError(
            f"{ADDRESS} '{address}': the cluster refuses the token of {token_source()}; give it the head's token "
            "(`ray get-auth-token` there prints it)"
        )
    os.environ[AUTH_MODE] = "token"
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # Ray has read its variables when it was imported; its own code reads them again in this way


def asks_for_token(address: str, token: str | None = None) -> bool:
    """Whether the cluster refuses a call with this token, or with none. `RunFailed` if nothing answers as a cluster does."""
    # Ray does not use proxies between its machines either.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return True
            raise RunFailed(
                f"{ADDRESS} '{address}': no Ray cluster answers there ({_reason(error)}); start its head with "
                f"`ray start --head`, or unset {ADDRESS} to use this machine alone"
            ) from None
    return False


def find_token() -> str | None:
    """The token that Ray would send, from the first of its three sources. None if there is none."""
    if given := os.environ.get(TOKEN, "").strip():
        return given
    path = Path(os.environ.get(TOKEN_FILE) or Path("~/.ray/auth_token").expanduser())
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def token_source() -> str:
    """Where `find_token` looks, for messages."""
    if os.environ.get(TOKEN, "").strip():
        return TOKEN
    return os.environ.get(TOKEN_FILE) or "~/.ray/auth_token"


def _reason(error: grpc.RpcError) -> str:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {_SECONDS:.0f} s"
    return str(error.details()).rpartition(": ")[2] or error.code().name
