"""Checks a cluster: all its machines have the same versions and time, see the store, and have room."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naturaltone.infra import cluster, local
from naturaltone.infra.doctor import machine
from naturaltone.infra.doctor.finding import Finding, failure, ok, warning
from naturaltone.infra.doctor.servers import judge_clock
from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed, UserError, cause, first_line
from naturaltone.serving import room

_SECONDS = 60.0  # for the answers of all machines: a process has to start on each


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a machine of the cluster said of itself.

    apart: the least seconds by which its clock differs from ours. sees_store: whether it reads a file that we wrote into the
    store's folder; None if the store is on S3. gpus, usable_gpus: those that Ray counts there, and those that torch can use.
    memory, free_disk: bytes.
    """

    name: str
    versions: Mapping[str, str]
    apart: float
    sees_store: bool | None
    gpus: int
    usable_gpus: int
    memory: int
    free_disk: int


def check_cluster(address: str, store: str | None, *, for_deployment: bool) -> Iterator[Finding]:
    """Check the cluster of `RAY_ADDRESS` and each of its machines."""
    try:
        cluster.enter(address)
        asks = address != "auto" and cluster.asks_for_token(address)
    except (UserError, RunFailed) as error:
        yield failure("cluster", first_line(error), "without it, the machines of the cluster were not checked")
        return
    if address != "auto":
        yield check_token(asks=asks, for_deployment=for_deployment)
    try:
        with local.ray_session():
            nodes, silent = look(store)
    except (RunFailed, OSError) as error:
        yield failure("cluster", first_line(error), "without it, the machines of the cluster were not checked")
        return
    yield from judge(nodes, silent, own=machine.versions())


def check_token(*, asks: bool, for_deployment: bool) -> Finding:
    if asks:
        return ok("token", "the cluster asks for a token, and takes ours")
    give = failure if for_deployment else warning
    return give(
        "token",
        "the cluster asks for none: everybody who can reach it can run programs on it",
        "start all its machines with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN (docs/cluster.md)",
    )


def look(store: str | None) -> tuple[list[Node], dict[str, str]]:
    """Ask each machine of the cluster that Ray is connected to; returns their answers, and who did not answer, and why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    probe = None
    if store is not None and not storage.is_s3(store):
        probe = storage.join(storage.absolute(store), f".naturaltone-doctor-{uuid.uuid4().hex[:8]}")
        storage.write_bytes(probe, b"doctor")
    task = ray.remote(num_cpus=0, max_retries=0)(describe)
    sent, deadline = time.time(), time.monotonic() + _SECONDS
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe): node
        for node in alive
    }
    nodes: list[Node] = []
    silent: dict[str, str] = {}
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            silent |= {name_of(node): f"no answer within {_SECONDS:.0f} s" for node in waiting.values()}
            break
        node, arrived = waiting.pop(ready[0]), time.time()
        try:
            said = ray.get(ready[0])
        except ray.exceptions.RayError as error:  # for example, naturaltone is not installed there
            silent[name_of(node)] = cause(error)
            continue
        nodes.append(
            Node(
                name=name_of(node),
                versions=said.versions,
                apart=max(0.0, sent - said.clock, said.clock - arrived),
                sees_store=said.sees_store,
                gpus=int(node["Resources"].get("GPU", 0)),
                usable_gpus=said.usable_gpus,
                memory=said.memory,
                free_disk=said.free_disk,
            )
        )
    if probe is not None:
        Path(probe).unlink(missing_ok=True)
    return nodes, silent


@dataclass(frozen=True, kw_only=True)
class _Said:
    """The answer of a machine. clock: seconds since 1970 by its own clock. The rest: see `Node`."""

    clock: float
    versions: Mapping[str, str]
    sees_store: bool | None
    usable_gpus: int
    memory: int
    free_disk: int


def describe(probe: str | None) -> _Said:
    """Describe the machine on which this runs. probe: a file that another machine wrote, None for none."""
    return _Said(
        clock=time.time(),
        versions=machine.versions(),
        sees_store=None if probe is None else Path(probe).exists(),
        usable_gpus=local.num_gpus(),
        memory=room.memory(),
        free_disk=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def name_of(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def judge(nodes: list[Node], silent: Mapping[str, str], *, own: Mapping[str, str]) -> Iterator[Finding]:
    """Compare the machines of a cluster with each other and with this one.

    silent: the machines that did not answer, and why. own: the versions of this machine.
    """
    if silent:
        who = ", ".join(f"{name}: {why}" for name, why in silent.items())
        yield failure(
            "machines", f"{len(silent)} did not answer ({who})", "look at them with `ray status` and `ray logs`"
        )
    yield ok("machines", f"{len(nodes)} answered: {', '.join(sorted(node.name for node in nodes))}")
    others = [
        f"{node.name} has {what} {number}, we {own[what]}"
        for node in nodes
        for what, number in node.versions.items()
        if number != own[what]
    ]
    yield (
        failure(
            "versions on all machines", "; ".join(others), "install the same versions everywhere, or the same image"
        )
        if others
        else ok("versions on all machines", "equal")
    )
    last = max(nodes, key=lambda node: node.apart, default=None)
    if last is not None:
        yield judge_clock(f"clocks of the machines, most of all {last.name}", last.apart)
    if any(node.sees_store is not None for node in nodes):
        blind = [node.name for node in nodes if not node.sees_store]
        yield (
            failure(
                "store on all machines",
                f"{', '.join(blind)} cannot see the store's folder",
                "mount it on all machines under the same path, or keep the store on S3",
            )
            if blind
            else ok("store on all machines", "all machines see its folder")
        )
    if unusable := [node for node in nodes if node.usable_gpus < node.gpus]:
        yield failure(
            "GPUs of the machines",
            "; ".join(f"{node.name}: Ray counts {node.gpus}, torch can use {node.usable_gpus}" for node in unusable),
            "install a torch with CUDA and a driver that fits it there",
        )
    elif nodes:
        yield ok("GPUs of the machines", f"{sum(node.gpus for node in nodes)}, and torch can use all")
    small = [node for node in nodes if node.free_disk < machine.LEAST_DISK or node.memory < machine.LEAST_MEMORY]
    if small:
        yield failure(
            "room on the machines",
            "; ".join(
                f"{node.name}: {node.memory / machine.GIB:.1f} GiB of memory, {node.free_disk / machine.GIB:.1f} GiB of disk"
                for node in small
            ),
            f"give each machine {machine.LEAST_MEMORY / machine.GIB:.0f} GiB of memory and "
            f"{machine.LEAST_DISK / machine.GIB:.0f} GiB of disk",
        )
    elif nodes:
        yield ok(
            "room on the machines",
            f"at least {min(node.memory for node in nodes) / machine.GIB:.1f} GiB of memory each",
        )
