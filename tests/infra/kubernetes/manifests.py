"""The manifests as `kubectl kustomize` renders them, and the pods in them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.test_architecture import ROOT

FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "kind")
# The overlay `cpu` with the component that retrains by RayCronJob.
RAYCRONJOB = "cpu with raycronjob"
RENDERED = (*OVERLAYS, RAYCRONJOB)
PART, NODE = "naturaltone.io/part", "naturaltone.io/node"  # labels of our pods

Manifest = dict[str, Any]


def _text(name: str) -> str:
    if name != RAYCRONJOB:
        return kustomize(FOLDER / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        lines = {"resources": [relative("overlays/cpu", folder)]}
        lines["components"] = [relative("components/raycronjob", folder)]
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(lines))
        return kustomize(Path(folder))


def relative(name: str, folder: str) -> str:
    """The path of `infra/kubernetes/NAME` from a folder: kustomize takes no other."""
    return os.path.relpath(FOLDER / name, os.path.realpath(folder))


def kustomize(folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("kubectl")), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def rendered(name: str) -> tuple[Manifest, ...]:
    """The objects of an overlay. All tests share them: copy what you change."""
    return tuple(yaml.load_all(_text(name), yaml.CSafeLoader))


def find(objects: Sequence[Manifest], kind: str, name: str) -> Manifest:
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod template. where: its object and the place in it. serves: whether it runs until somebody stops it."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]
    serves: bool

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: Sequence[Manifest]) -> list[Pod]:
    """All pod templates, at any depth: an object that is one in a place that we do not know is found too."""
    return [pod for each in objects for pod in _pods(each, f"{each['kind']}/{each['metadata']['name']}", each["kind"])]


def _pods(node: Any, where: str, kind: str) -> Iterator[Pod]:
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            serves = kind in ("Deployment", "StatefulSet") or "rayCluster" in where
            yield Pod(where, node.get("metadata", {}).get("labels", {}), node["spec"], serves)
        for name, value in node.items():
            yield from _pods(value, f"{where}.{name}", kind)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _pods(value, f"{where}[{index}]", kind)


def environment(container: Manifest, objects: Sequence[Manifest], secrets: Sequence[Manifest]) -> dict[str, str]:
    """The variables that a container gets, with the values of its ConfigMaps and of `secrets`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= find(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif "secretKeyRef" in variable.get("valueFrom", {}):
            reference = variable["valueFrom"]["secretKeyRef"]
            if not reference.get("optional"):
                found[variable["name"]] = find(secrets, "Secret", reference["name"])["stringData"][reference["key"]]
    return found


def ray_cluster(job_or_service: Manifest) -> Manifest:
    """The Ray cluster in a RayJob, a RayCronJob or a RayService."""
    spec = job_or_service["spec"].get("jobTemplate", job_or_service["spec"])
    return dict(spec.get("rayClusterSpec") or spec["rayClusterConfig"])
