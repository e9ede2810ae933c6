"""What an API server and KubeRay refuse: unknown fields, wrong types, violated rules, and names that are too long."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

from tests.infra.kubernetes import crds

KUBERNETES = "1.37"
# KubeRay makes a name of its own from each, and refuses one that is longer.
MAX_NAME = {"RayJob": 47, "RayCronJob": 36, "RayService": 47}
# Without this, it reads megabytes of schemas anew for each object.
utils.schema_contents = functools.cache(utils.schema_contents)
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def mistakes(manifest: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    """Why the object would be refused; empty if it would not. before: the object that it changes."""
    if manifest["kind"] in crds.KINDS:
        return list(_custom(manifest, before))
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def _custom(manifest: dict[str, Any], before: dict[str, Any] | None) -> Iterator[str]:
    kind = manifest["kind"]
    errors = list(_validator(kind).iter_errors(manifest))
    yield from (f"{error.json_path}: {error.message}" for error in errors)
    if errors:  # an API server evaluates the rules only for an object of the right form
        return
    name = manifest["metadata"]["name"]
    if len(name) > MAX_NAME[kind] or not _NAME.fullmatch(name):
        yield f"name '{name}': {kind} takes up to {MAX_NAME[kind]} characters: a letter, then letters, digits and '-'"
    yield from _broken_rules(crds.schema(kind), manifest, before, "$")


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    closed = _close(crds.schema(kind))
    closed["properties"]["metadata"] = _METADATA
    closed["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    closed["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft202012Validator(closed)


def _close(node: Any) -> Any:
    """The schema, with unknown fields refused in every object that names its fields.

    Kubernetes' schema would only drop them, and a misspelt field would do nothing.
    """
    if isinstance(node, list):
        return [_close(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _close(value) for name, value in node.items()}
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if node.get("type") == "object" and "properties" in node and not is_open:
        closed["additionalProperties"] = False
    return closed


def _broken_rules(schema: dict[str, Any], value: Any, before: Any, where: str) -> Iterator[str]:
    """Rules that the value violates, here and below: those in CEL, and keys of lists that are given twice."""
    for rule in schema.get("x-kubernetes-validations", []):
        names = {"self": celpy.json_to_cel(value)}
        if "oldSelf" in rule["rule"]:  # such a rule is for changes only
            if before is None:
                continue
            names["oldSelf"] = celpy.json_to_cel(before)
        if not _program(rule["rule"]).evaluate(names):
            yield f"{where}: {rule['message']}"
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, each in value.items():
            below = schema.get("properties", {}).get(name, others if isinstance(others, dict) else {})
            old = before.get(name) if isinstance(before, dict) else None
            yield from _broken_rules(below, each, old, f"{where}.{name}")
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            below = schema["items"].get("properties", {})
            given = [tuple(each.get(key, below.get(key, {}).get("default")) for key in keys) for each in value]
            yield from (f"{where}: {keys} {each} twice" for each in set(given) if given.count(each) > 1)
        for index, each in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), each, None, f"{where}[{index}]")


@functools.cache
def _program(rule: str) -> celpy.Runner:
    cel = celpy.Environment()
    return cel.program(cel.compile(rule))
