"""Each manifest is one that an API server and KubeRay would take; and the check refuses what they would refuse."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.kubernetes import crds, manifests
from tests.infra.kubernetes.check import MAX_NAME, mistakes
from tests.infra.kubernetes.manifests import RAYCRONJOB, RENDERED, Manifest, find, rendered

# Changed places of an object: of Kubernetes' own kinds, whose schemas somebody else tests, and of KubeRay's, which we close.
_SAMPLES, _KUBERAY_SAMPLES = 12, 150


@pytest.mark.parametrize("name", RENDERED)
def test_no_object_is_refused(name: str) -> None:
    refused = {
        f"{each['kind']}/{each['metadata']['name']}": found for each in rendered(name) if (found := mistakes(each))
    }
    assert not refused


def test_every_kind_that_the_design_names_is_there() -> None:
    kinds = {each["kind"] for each in [*rendered("cpu"), *rendered(RAYCRONJOB)]}
    assert {*crds.KINDS, "CronJob", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "Role"} <= kinds
    jobs = {each["metadata"]["name"] for each in rendered("cpu") if each["kind"] == "RayJob"}
    assert jobs == {"ingest-inputs", "ingest-natural", "train", "enhance", "retrain"}


@functools.cache
def _of_each_kind() -> dict[str, Manifest]:
    """The largest object of each kind."""
    found = {
        each["kind"]: each for each in sorted([*rendered("kind"), *rendered(RAYCRONJOB)], key=lambda x: len(str(x)))
    }
    return dict(sorted(found.items()))


KINDS = tuple(_of_each_kind())


def _places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(value, (*path, key))


def _at(manifest: Manifest, path: tuple[str | int, ...]) -> Any:
    return functools.reduce(lambda node, key: node[key], path, manifest)


def _chosen(kind: str, wanted: Callable[[Any], bool]) -> list[tuple[str | int, ...]]:
    manifest = _of_each_kind()[kind]
    # By its kind, the checker finds the schema.
    found = [
        path for path in _places(manifest) if wanted(_at(manifest, path)) and path not in [("kind",), ("apiVersion",)]
    ]
    most = _KUBERAY_SAMPLES if kind in crds.KINDS else _SAMPLES
    return random.Random(kind).sample(found, min(most, len(found)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused_wherever_it_stands(kind: str) -> None:
    taken = []
    for path in _chosen(kind, lambda node: isinstance(node, dict)):
        changed = copy.deepcopy(_of_each_kind()[kind])
        _at(changed, path)["anUnknownField"] = {}  # in a map of texts, it is of the wrong type
        if not mistakes(changed):
            taken.append(path)
    assert not taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_the_wrong_type_is_refused_wherever_it_stands(kind: str) -> None:
    taken = []
    for path in _chosen(kind, lambda node: not isinstance(node, dict | list)):
        changed = copy.deepcopy(_of_each_kind()[kind])
        _at(changed, path[:-1])[path[-1]] = [{"a": "list"}]
        if not mistakes(changed):
            taken.append(path)
    assert not taken


@pytest.mark.parametrize("kind", crds.KINDS)
def test_a_name_that_is_too_long_for_kuberay_is_refused(kind: str) -> None:
    manifest = copy.deepcopy(_of_each_kind()[kind])
    for length, is_taken in ((MAX_NAME[kind], True), (MAX_NAME[kind] + 1, False)):
        manifest["metadata"]["name"] = "a" * length
        assert (not mistakes(manifest)) == is_taken
    manifest["metadata"]["name"] = "2026-11-24"  # KubeRay makes names of services from it, which begin with a letter
    assert mistakes(manifest)


def _deletion(**strategy: Any) -> dict[str, Any]:
    return {"spec": {"deletionStrategy": strategy}}


_RULE = {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": {"managedBy": "somebody"}}, "managedBy field value must be"),
        (_deletion(onSuccess={"policy": "DeleteSelf"}), "requires either BOTH"),
        (
            _deletion(onSuccess={"policy": "DeleteSelf"}, onFailure={"policy": "DeleteSelf"}, deletionRules=[_RULE]),
            "cannot be used together",
        ),
        (
            _deletion(deletionRules=[{**_RULE, "condition": {"ttlSeconds": 60}}]),
            "requires either the JobStatus or the JobDeploymentStatus",
        ),
    ],
)
def test_a_violated_rule_in_cel_is_found(change: Manifest, message: str) -> None:
    rayjob = copy.deepcopy(find(rendered("cpu"), "RayJob", "retrain"))
    rayjob["spec"] |= _deletion(deletionRules=[_RULE])["spec"]
    assert not mistakes(rayjob)
    rayjob["spec"] |= change["spec"]
    assert [each for each in mistakes(rayjob) if message in each]


@pytest.mark.parametrize("kind", crds.KINDS)
def test_a_violated_rule_in_cel_is_found_in_each_kind(kind: str) -> None:
    manifest = copy.deepcopy(_of_each_kind()[kind])
    owner = manifest["spec"]["jobTemplate"] if kind == "RayCronJob" else manifest["spec"]
    owner["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert not mistakes(manifest)
    changed = copy.deepcopy(manifest)
    (changed["spec"]["jobTemplate"] if kind == "RayCronJob" else changed["spec"])["managedBy"] = (
        "ray.io/kuberay-operator"
    )
    assert not mistakes(changed)
    assert [each for each in mistakes(changed, before=manifest) if "immutable" in each], "a rule for changes"
    owner["managedBy"] = "somebody"
    assert [each for each in mistakes(manifest) if "managedBy field value must be" in each]


def test_a_port_that_is_given_twice_is_refused() -> None:
    rayjob = copy.deepcopy(find(rendered("cpu"), "RayJob", "train"))
    ports = manifests.ray_cluster(rayjob)["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    ports.append({"name": "again", "containerPort": 6379})
    assert [each for each in mistakes(rayjob) if "twice" in each]


def test_the_schemas_keep_all_but_descriptions() -> None:
    """A schema that lost its rules on the way would take everything."""
    definition = {
        "spec": {
            "versions": [
                {"name": "v1alpha1", "schema": {}},
                {
                    "name": "v1",
                    "schema": {
                        "openAPIV3Schema": {
                            "description": "text",
                            "properties": {"description": {"type": "string", "description": "text"}},
                            "x-kubernetes-validations": [{"rule": "true"}],
                        }
                    },
                },
            ]
        }
    }
    assert crds.compact(definition) == {
        "properties": {"description": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "true"}],
    }
    for kind in crds.KINDS:
        assert str(crds.schema(kind)).count("x-kubernetes-validations") >= 2
        assert "x-kubernetes-list-map-keys" in str(crds.schema(kind))


def test_a_patch_of_a_field_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Kustomize adds the field without a word. So a field that the base renames would keep the overlays' old values."""
    patch = yaml.safe_dump([{"op": "replace", "path": "/spec/renamed", "value": 1}])
    lines = {
        "resources": [manifests.relative("base", str(tmp_path))],
        "patches": [{"target": {"kind": "RayJob"}, "patch": patch}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    changed = list(yaml.safe_load_all(manifests.kustomize(tmp_path)))
    assert [each for each in mistakes(find(changed, "RayJob", "train")) if "renamed" in each]
