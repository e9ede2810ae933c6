"""The service on Ray Serve: the deployments, their settings, and a local start. Importing this file starts nothing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

# The decorator of Serve pickles the classes of this file by value. So everything that they use stands above them.
from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import network, settings
from naturaltone.serving.service.api import create_api
from naturaltone.serving.service.log import log_to
from naturaltone.serving.service.models import Models
from naturaltone.serving.service.service import Service
from naturaltone.training import allocator
from naturaltone.training.checkpoint import Bundle

APP_NAME = "naturaltone"

# Photos that wait in a replica, so that its thread never waits for the next one. More would only make everybody wait longer:
# who is refused is told to come back in a second.
_WAITING = 1
# In a proxy, for each slot: all that the guard lets in, so that a burst is not refused while places are free.
_QUEUED = 2
_START_SECONDS = 120.0  # the longest that a new replica waits for its first model
_REQUEST_SECONDS = 120.0  # of queue and work; the upload is over before
_NETWORK_SECONDS = 60.0
_DRAIN_SECONDS = 60.0  # a replica that stops gets so much time for the photos that it works on
_HEALTH_SECONDS = 1.0
_BATCH, _BATCH_SECONDS = 16, 0.005

log = logging.getLogger(__name__)


class AppArgs(BaseModel):
    """Arguments of `build_app`. The models can change in place, by `user_config`; the others cannot.

    model: `pretrained`, a bundle folder, an s3:// or a models:/ URI. compare: a second model, for `?model=challenger`.
    replicas: processes that enhance, or the most if `min_replicas` is given. slots: photos that each enhances at once.
    threads: CPU threads for one photo. network_replicas: processes with a GPU each that run the network; with 0, each
    replica runs it itself. look_seconds: between two looks for a new version.
    """

    model: str = "pretrained"
    compare: str = ""
    replicas: int = 1
    min_replicas: int | None = None
    slots: int = 1
    threads: int = 1
    network_replicas: int = 0
    look_seconds: float = 10.0


def _configure(models: Models, config: dict[str, Any], *, is_first: bool) -> None:
    """Follow the models of a `user_config`. Never raises: Serve would stop the replica, and then all others.

    The first call waits for a model, because no request comes before it returns. Later calls return at once.
    """
    try:
        models.follow(model=str(config["model"]), compare=str(config.get("compare") or ""))
        models.look_every(float(config.get("look_seconds", 10.0)))
        if is_first:
            models.wait(_START_SECONDS)
    except Exception as error:
        log.error("user_config %r: %s; the models of before stay", config, first_line(error), exc_info=error)


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Network:
    """A replica that runs the network for the others."""

    def __init__(self) -> None:
        log_to(os.environ.get(settings.LOG, ""))
        self._models = Models()
        self._has_started = False

    def reconfigure(self, config: dict[str, Any]) -> None:
        _configure(self._models, config, is_first=not self._has_started)
        self._has_started = True

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=_BATCH_SECONDS)
    async def ask(self, questions: list[network.Question]) -> list[network.Reply]:
        return network.answer(self._models.serving, questions)


@serve.deployment(ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": allocator.KEEP_ENVIRONMENT}})
@serve.ingress()
class EnhanceService:
    """A replica. Serve calls `reconfigure` with the `user_config`, before the first request and after each change of it."""

    def __init__(self, *, slots: int = 1, threads: int = 1, network: DeploymentHandle | None = None) -> None:
        log_to(os.environ.get(settings.LOG, ""))
        cv2.setNumThreads(threads)
        torch.set_num_threads(threads)
        self._models = Models(build=_remote(network)) if network else Models()
        self._service = Service(self._models, slots=slots)
        self._has_started = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._service)

    def reconfigure(self, config: dict[str, Any]) -> None:
        _configure(self._models, config, is_first=not self._has_started)
        self._has_started = True


def _remote(handle: DeploymentHandle) -> Any:
    """Builds enhancers whose network runs in the deployment `Network`."""

    def ask(question: network.Question) -> network.Reply:
        return handle.ask.remote(question).result(timeout_s=_NETWORK_SECONDS)

    def build(which: str, bundle: Bundle, version: str) -> Enhancer:
        return network.RemoteEnhancer(bundle, version=version, ask=ask, which=which)

    return build


def build_app(args: AppArgs) -> serve.Application:
    """Build the Serve application; also for the `import_path` of a Serve configuration."""
    config = {"model": args.model, "compare": args.compare, "look_seconds": args.look_seconds}
    scale: dict[str, Any] = {"num_replicas": args.replicas}
    if args.min_replicas is not None:
        bounds = {"min_replicas": args.min_replicas, "max_replicas": args.replicas}
        scale = {"autoscaling_config": bounds | {"target_ongoing_requests": args.slots}}
    arguments: dict[str, Any] = {"slots": args.slots, "threads": args.threads}
    if args.network_replicas:
        arguments["network"] = Network.options(  # type: ignore[attr-defined]
            num_replicas=args.network_replicas,
            user_config=config,
            max_ongoing_requests=4 * _BATCH,
            health_check_period_s=_HEALTH_SECONDS,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if torch.cuda.is_available() else 0},
        ).bind()
    return EnhanceService.options(  # type: ignore[attr-defined]
        **scale,
        user_config=config,
        max_ongoing_requests=args.slots + _WAITING,
        max_queued_requests=_QUEUED * args.slots * args.replicas,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=_HEALTH_SECONDS,
    ).bind(**arguments)


def environment(args: AppArgs) -> dict[str, str]:
    """The variables that Ray should start with for `running`; those that are set already stay."""
    values = {
        settings.MOST_INSIDE: str(args.replicas * (args.slots + _WAITING)),
        "RAY_worker_niceness": "0",  # Ray makes its workers yield to other programs; people wait for these
        **allocator.SERVE_ENVIRONMENT,  # for proxy, controller and Ray's own processes; replicas have theirs
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",  # by default 0.1, which costs 3% of a core all the time
        "RAY_enable_metrics_collection": "0",  # Ray's own figures, which nobody reads without its dashboard
    }
    return {name: os.environ.get(name, value) for name, value in values.items()}


@contextmanager
def running(args: AppArgs, *, host: str, port: int) -> Iterator[str]:
    """Serve on `host:port` while the context lasts; yields the base URL once the service answers.

    Ray must have been started with `settings.RAY_SERVE` in its environment. `UserError` if Ray Serve runs
    in this cluster already, since its proxies keep their address.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if serve.status().proxies:
        raise UserError(
            "Ray Serve runs in this cluster already, at an address of its own; add the service to its configuration with "
            "`serve deploy`, or stop it with `serve shutdown`"
        )
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": _REQUEST_SECONDS})
    serve.run(build_app(args), name=APP_NAME, route_prefix="/")
    try:
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()
