"""Networks are closed but for those who must talk, and every selector and port finds what it names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.infra.kubernetes.manifests import (
    NODE,
    PART,
    RAYCRONJOB,
    RENDERED,
    Manifest,
    find,
    pods,
    rendered,
)


def _matches(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", []))


@pytest.mark.parametrize("name", RENDERED)
def test_every_selector_finds_pods(name: str) -> None:
    objects = rendered(name)
    labels = [pod.labels for pod in pods(objects)]
    for each in objects:
        spec, kind = each.get("spec", {}), each["kind"]
        selectors = []
        if kind == "Service":
            selectors = [{"matchLabels": spec["selector"]}]
        elif kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selectors = [spec["selector"]]
        elif kind == "NetworkPolicy":
            peers = [peer for rule in spec.get("ingress", []) for peer in rule.get("from", [])]
            peers += [peer for rule in spec.get("egress", []) for peer in rule.get("to", [])]
            selectors = [spec["podSelector"]]
            selectors += [peer["podSelector"] for peer in peers if "namespaceSelector" not in peer]
            for peer in selectors[1:]:
                values = [{each["key"]: value} for each in peer.get("matchExpressions", []) for value in each["values"]]
                assert all(any(value.items() <= one.items() for one in labels) for value in values), each["metadata"]
        for selector in selectors:
            assert any(_matches(selector, one) for one in labels), (each["metadata"]["name"], selector)
        if kind == "Deployment" or kind == "StatefulSet":
            assert _matches(spec["selector"], spec["template"]["metadata"]["labels"])


@pytest.mark.parametrize("name", RENDERED)
def test_every_named_port_is_a_port_of_the_pod(name: str) -> None:
    objects = rendered(name)
    for service in [each for each in objects if each["kind"] == "Service"]:
        [pod] = [pod for pod in pods(objects) if _matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        named = {port["name"] for container in pod.containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for pod in pods(objects):
        for container in pod.containers:
            named = {port["name"] for port in container.get("ports", [])}
            probes = [
                container[probe] for probe in ("readinessProbe", "livenessProbe", "startupProbe") if probe in container
            ]
            used = {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe}
            assert {port for port in used if isinstance(port, str)} <= named


def _is_let_in(peer: Manifest, source: Manifest) -> bool:
    is_pod = "podSelector" not in peer or _matches(peer["podSelector"], source.get("pod", {}))
    if "namespace" in source:
        return "namespaceSelector" in peer and _matches(peer["namespaceSelector"], source["namespace"]) and is_pod
    return "namespaceSelector" not in peer and is_pod


def allowed(objects: Sequence[Manifest], target: dict[str, str], port: int, source: Manifest) -> bool:
    """Whether a policy lets a connection in. source: {"pod": labels} of this namespace, or {"namespace": labels} of another."""
    policies = [each["spec"] for each in objects if each["kind"] == "NetworkPolicy"]
    policies = [each for each in policies if "Ingress" in each["policyTypes"] and _matches(each["podSelector"], target)]
    assert policies, "without a policy, everybody would be let in"
    for rule in (rule for policy in policies for rule in policy.get("ingress", [])):
        if "ports" in rule and port not in [each["port"] for each in rule["ports"]]:
            continue
        if any(_is_let_in(peer, source) for peer in rule["from"]):
            return True
    return False


ANYBODY = {"namespace": {"kubernetes.io/metadata.name": "default"}}
CLIENTS = {"namespace": {"naturaltone.io/clients": "true"}}
PROMETHEUS = {"namespace": {"kubernetes.io/metadata.name": "monitoring"}}
JOB, SERVICE = {PART: "job", NODE: "worker"}, {PART: "service", NODE: "worker"}
KUBERAY = {
    "namespace": {"kubernetes.io/metadata.name": "kuberay-system"},
    "pod": {"app.kubernetes.io/name": "kuberay-operator"},
}


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize(
    ("target", "port", "source", "expected"),
    [
        *[
            ({PART: part}, port, ANYBODY, False)
            for part in ("job", "service")
            for port in (8080, 9464, 8265, 6379, 10001)
        ],
        *[({PART: "service"}, port, CLIENTS, port == 8000) for port in (8000, 8080, 9464, 8265)],
        *[({PART: "service"}, port, PROMETHEUS, port in (8080, 9464)) for port in (8000, 8080, 9464, 8265)],
        *[({PART: "job"}, port, PROMETHEUS, port == 8080) for port in (8080, 8265)],
        *[({PART: part}, 8265, KUBERAY, True) for part in ("job", "service")],
        ({PART: "job"}, 41234, {"pod": JOB}, True),  # Ray's nodes use many ports
        ({PART: "job"}, 8265, {"pod": SERVICE}, False),
        ({PART: "service"}, 8265, {"pod": JOB}, False),
        *[({PART: "s3"}, 9000, {"pod": {PART: part}}, True) for part in ("job", "service", "mlflow")],
        *[
            ({PART: part}, port, ANYBODY, False)
            for part, port in (("s3", 9000), ("postgresql", 5432), ("mlflow", 5000))
        ],
        ({PART: "postgresql"}, 5432, {"pod": {PART: "mlflow"}}, True),
        ({PART: "postgresql"}, 5432, {"pod": JOB}, False),
        *[({PART: "mlflow"}, 5000, {"pod": {PART: part}}, True) for part in ("job", "service")],
        ({PART: "retrain"}, 80, ANYBODY, False),
    ],
)
def test_only_those_who_must_are_let_in(
    name: str, target: dict[str, str], port: int, source: Manifest, expected: bool
) -> None:
    assert allowed(rendered(name), target, port, source) == expected


@pytest.mark.parametrize("name", RENDERED)
def test_every_pod_is_denied_all_that_no_policy_allows(name: str) -> None:
    deny = find(rendered(name), "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not [each for each in rendered(name) if each["kind"] == "Service" and each["spec"].get("type")]
    to_api_server = {
        each["metadata"]["name"]
        for each in rendered(name)
        if each["kind"] == "NetworkPolicy" and any("to" not in rule for rule in each["spec"].get("egress", []))
    }
    by_trigger = set() if name == RAYCRONJOB else {"retrain"}
    assert to_api_server == by_trigger | ({"job"} if name == "gpu" else set())
