"""The environment variables of the service. Every machine of a cluster needs them before Ray starts there."""

from __future__ import annotations

API_KEYS = "NATURALTONE_API_KEYS"  # SHA-256 hashes with commas between them, or a file of them
RATE_LIMIT = "NATURALTONE_RATE_LIMIT"  # requests that a key may send in a minute
NO_AUTH = "NATURALTONE_NO_AUTH"  # 1: everybody may use the service
METRICS = "NATURALTONE_METRICS"  # HOST:PORT at which each machine answers Prometheus; unset: nowhere
LOOK_SECONDS = "NATURALTONE_LOOK_SECONDS"  # between two looks for a new version of the model, on average (10)
MOST_INSIDE = "NATURALTONE_MOST_INSIDE"  # photos that a proxy lets in at the same time; unset: Ray Serve decides
LOG = "NATURALTONE_SERVICE_LOG"  # a file; if unset, the log goes to stderr, which Ray keeps in its own files

# Ray Serve's proxies call the function that this variable names, and put the middlewares that it returns before the service.
PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
GUARD = "naturaltone.serving.service.guard:middlewares"

# What Ray Serve has to be told, by its own variables.
RAY_SERVE = {
    PROXY_CALLBACK: GUARD,
    # From proxies to replicas, instead of Ray's actor calls and object store: 8 ms less CPU for each photo.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),  # a photo is one message; the default is 4 MiB
}
