"""Secrets are named and never written down, and all that pods refer to is there."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.infra.kubernetes.manifests import (
    RENDERED,
    Manifest,
    pods,
    rendered,
)
from tests.test_architecture import ROOT

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", re.IGNORECASE)


def inline_secrets(objects: Sequence[Manifest]) -> list[str]:
    """Variables that are called like a secret and have a value."""
    return [
        f"{pod.where}: {variable['name']}"
        for pod in pods(objects)
        for container in pod.containers
        for variable in container.get("env", [])
        if SECRET_NAME.search(variable["name"]) and "value" in variable
    ]


@pytest.mark.parametrize("name", RENDERED)
def test_secrets_are_given_by_reference_only(name: str) -> None:
    objects = rendered(name)
    assert not inline_secrets(objects)
    assert not [
        key for each in objects if each["kind"] == "ConfigMap" for key in each["data"] if SECRET_NAME.search(key)
    ]
    assert ("Secret" in {each["kind"] for each in objects}) == (name == "kind")
    objects = copy.deepcopy(objects)
    variable = next(
        variable
        for pod in pods(objects)
        for container in pod.containers
        for variable in container.get("env", [])
        if variable["name"] == "AWS_SECRET_ACCESS_KEY"
    )
    variable["value"] = "hunter2"
    assert inline_secrets(objects)


def _references(node: Any) -> set[tuple[str, str]]:
    """(kind, name) of each Secret, ConfigMap and so on that must be there before a pod starts."""
    found = set()
    if isinstance(node, dict):
        for key, kind in (("secretKeyRef", "Secret"), ("configMapRef", "ConfigMap"), ("configMap", "ConfigMap")):
            if isinstance(node.get(key), dict) and not node[key].get("optional"):
                found.add((kind, node[key]["name"]))
        for key, kind in (
            *(
                ("secretName", "Secret"),
                ("priorityClassName", "PriorityClass"),
                ("serviceAccountName", "ServiceAccount"),
            ),
        ):
            if isinstance(node.get(key), str):
                found.add((kind, node[key]))
        for value in node.values():
            found |= _references(value)
    elif isinstance(node, list | tuple):
        found = set().union(*(_references(each) for each in node))
    return found


@pytest.mark.parametrize("name", RENDERED)
def test_what_pods_refer_to_is_there(name: str) -> None:
    """The secrets of `kind` are the list of secrets that docs/cluster.md has to make."""
    there = {(each["kind"], each["metadata"]["name"]) for each in [*rendered(name), *rendered("kind")]}
    assert _references(rendered(name)) - there == set()
    assert len(_references(rendered(name))) >= 8


def test_the_guide_makes_the_secrets_with_all_their_keys() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()
    made = {
        name: set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", options))
        for name, options in re.findall(r"create secret generic ([\w-]+)((?: \\\n|[^\n])*)", guide)
    }
    needed = {
        each["metadata"]["name"]: set(each["stringData"]) for each in rendered("kind") if each["kind"] == "Secret"
    }
    assert {name: made[name] for name in needed} == needed
