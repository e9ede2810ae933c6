"""Every pod is confined: no root, no capabilities, no writable root file system, and limits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.infra.kubernetes import manifests
from tests.infra.kubernetes.manifests import (
    NODE,
    PART,
    RENDERED,
    Pod,
    find,
    pods,
    rendered,
)


def unconfined(pod: Pod) -> list[str]:
    """What Kubernetes' profile `restricted` and our own rules refuse in a pod."""
    security = pod.spec.get("securityContext", {})
    found = []
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        found.append("runs as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("any system call")
    if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        found.append("the host's namespaces")
    if "priorityClassName" not in pod.spec:
        found.append("no priority")
    if pod.spec.get("automountServiceAccountToken") is not False and not talks_to_the_api_server(pod):
        found.append("a token for the API server")
    if any(not {"emptyDir", "configMap", "secret"} & volume.keys() for volume in pod.spec.get("volumes", [])):
        found.append("a volume of the host")
    for container in pod.containers:
        inside = container.get("securityContext", {})
        name = container["name"]
        if inside.get("allowPrivilegeEscalation") is not False or inside.get("privileged"):
            found.append(f"{name}: more privileges")
        if inside.get("readOnlyRootFilesystem") is not True:
            found.append(f"{name}: a root file system that can be written")
        if inside.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{name}: capabilities")
        resources = container.get("resources", {})
        found += [
            f"{name}: no {kind} of {what}"
            for kind in ("requests", "limits")
            for what in ("cpu", "memory")
            if what not in resources.get(kind, {})
        ]
        written = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
        if (
            "naturaltone" in container["image"]
            and "rayjob" not in str(container.get("command"))
            and "/tmp" not in written
        ):
            found.append(f"{name}: nowhere to write")
    if pod.serves:
        container = pod.spec["containers"][0]
        found += [f"no {probe}" for probe in ("readinessProbe", "livenessProbe") if probe not in container]
    return found


def talks_to_the_api_server(pod: Pod) -> bool:
    """The pod that makes RayJobs, and the heads with Ray's autoscaler."""
    by_autoscaler = pod.labels.get(NODE) == "head" and "gpu" in str(pod.labels.get("test.overlay", ""))
    return pod.labels.get(PART) == "retrain" or by_autoscaler


def pods_of(name: str) -> list[Pod]:
    return [
        Pod(each.where, {**each.labels, "test.overlay": name}, each.spec, each.serves) for each in pods(rendered(name))
    ]


@pytest.mark.parametrize("name", RENDERED)
def test_every_pod_is_confined(name: str) -> None:
    found = pods_of(name)
    assert len(found) > 15
    assert not {pod.where: wrong for pod in found if (wrong := unconfined(pod))}


def _container(change: dict[str, Any]) -> Callable[[Pod], None]:
    return lambda pod: pod.containers[0].update(change)


def _security(change: dict[str, Any]) -> Callable[[Pod], None]:
    return lambda pod: pod.containers[0]["securityContext"].update(change)


@pytest.mark.parametrize(
    "loosen",
    [
        lambda pod: pod.spec["securityContext"].update(runAsNonRoot=False),
        lambda pod: pod.spec["securityContext"].update(runAsUser=0),
        lambda pod: pod.spec["securityContext"].pop("seccompProfile"),
        lambda pod: pod.spec.update(hostNetwork=True),
        lambda pod: pod.spec.pop("priorityClassName"),
        lambda pod: pod.spec.update(automountServiceAccountToken=True),
        lambda pod: pod.spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        _security({"allowPrivilegeEscalation": True}),
        _security({"readOnlyRootFilesystem": False}),
        _security({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}),
        _container({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}),
        _container({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1"}}}),
        _container({"volumeMounts": []}),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "RayJob"])
def test_a_pod_that_is_loosened_is_found(kind: str, loosen: Callable[[Pod], None]) -> None:
    pod = copy.deepcopy(next(each for each in pods_of("cpu") if each.where.startswith(kind)))
    assert not unconfined(pod)
    loosen(pod)
    assert unconfined(pod)


def test_a_server_without_a_probe_is_found() -> None:
    for pod in pods_of("cpu"):
        if pod.serves:
            changed = copy.deepcopy(pod)
            del changed.spec["containers"][0]["readinessProbe"]
            assert unconfined(changed) == ["no readinessProbe"]


def test_kuberays_autoscaler_is_confined_too() -> None:
    """KubeRay makes this container itself, by these options."""
    for name in ("train", "retrain"):
        cluster = manifests.ray_cluster(find(rendered("gpu"), "RayJob", name))
        options = cluster["autoscalerOptions"]
        container = {"name": "autoscaler", "image": "naturaltone", **options}
        template = cluster["headGroupSpec"]["template"]
        pod = Pod(name, {**template["metadata"]["labels"], "test.overlay": "gpu"}, {**template["spec"]}, False)
        pod.spec["containers"] = [container]
        assert not unconfined(pod)
        assert {mount["name"] for mount in options["volumeMounts"]} <= {each["name"] for each in pod.spec["volumes"]}
