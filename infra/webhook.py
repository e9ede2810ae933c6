"""Tells another program what a slot did: a POST of JSON, signed so that the receiver can trust it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
import urllib.request
from typing import Any

SIGNATURE = "X-Naturaltone-Signature"
_TRIES, _ANSWER_SECONDS = 3, 10.0


class WebhookFailed(Exception):
    """Nobody took the message."""


def send(url: str, message: dict[str, Any], *, secret: str | None) -> None:
    """POST the message. With a secret, the header `SIGNATURE` is sha256=HMAC of the body. `WebhookFailed` after three tries."""
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "naturaltone"}
    if secret:
        headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=_ANSWER_SECONDS):
                return
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = error
            if attempt + 1 < _TRIES:
                time.sleep(2**attempt)
    raise WebhookFailed(f"the webhook did not take the report ({problem})")
