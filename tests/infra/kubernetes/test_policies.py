"""What the manifests promise beyond their form: confined pods, no secrets, closed networks, and names that exist."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

import naturaltone
from naturaltone.infra import retrain_config
from naturaltone.infra.launch import parse_workers
from naturaltone.pipeline import caches
from naturaltone.serving.service import app, settings
from naturaltone.training import allocator
from tests.infra.kubernetes import manifests
from tests.infra.kubernetes.check import MAX_NAME
from tests.infra.kubernetes.manifests import OVERLAYS, RAYCRONJOB, RENDERED, Manifest, Pod, find, pods, rendered
from tests.test_architecture import ROOT

PART, NODE = "naturaltone.io/part", "naturaltone.io/node"
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", re.IGNORECASE)


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


# --- secrets


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


# --- networks and selectors


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


# --- Ray


def _clusters(name: str) -> list[tuple[Manifest, Manifest]]:
    found = [each for each in rendered(name) if each["kind"] in ("RayJob", "RayService", "RayCronJob")]
    return [(each, manifests.ray_cluster(each)) for each in found]


@pytest.mark.parametrize("name", RENDERED)
def test_every_ray_cluster_asks_for_a_token(name: str) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for _, cluster in _clusters(name):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "naturaltone-ray"}
        assert cluster["rayVersion"] == pinned[1], "KubeRay asks for the version when it asks for a token"


@pytest.mark.parametrize("name", RENDERED)
def test_kuberay_takes_what_its_schemas_do_not_say(name: str) -> None:
    """Rules in the code of KubeRay 1.7.0 (controllers/ray/utils/validation.go)."""
    for each, cluster in _clusters(name):
        spec = each["spec"].get("jobTemplate", each["spec"])
        if each["kind"] != "RayService":
            assert spec["shutdownAfterJobFinishes"], "else it may not be suspended"
            assert "deletionStrategy" not in spec, "it excludes shutdownAfterJobFinishes"
            assert spec.get("suspend", False) == (each["kind"] == "RayJob"), "applying the manifests starts no job"
        for group in cluster["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            if not cluster.get("enableInTreeAutoscaling"):
                assert group["replicas"] == group["maxReplicas"], "nobody would change the number"
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["spec"].get("restartPolicy") is None


def test_training_on_spot_gpus_is_elastic() -> None:
    for name in ("train", "retrain"):
        rayjob = find(rendered("gpu"), "RayJob", name)
        cluster = manifests.ray_cluster(rayjob)
        assert cluster["enableInTreeAutoscaling"] is True
        [group] = cluster["workerGroupSpecs"]
        [worker] = group["template"]["spec"]["containers"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {each["key"] for each in group["template"]["spec"]["tolerations"]} >= {
            *("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "nvidia.com/gpu"),
        }
        if name == "train":
            workers = re.search(r"--workers (\S+)", rayjob["spec"]["entrypoint"])
            assert workers and parse_workers(workers[1]) == (group["minReplicas"], group["maxReplicas"])
    for name in ("ingest-inputs", "enhance"):
        assert "nvidia" not in str(find(rendered("gpu"), "RayJob", name)), "they stay on CPUs"


def test_the_name_of_a_slots_rayjob_fits() -> None:
    assert len(find(rendered("cpu"), "RayJob", "retrain")["metadata"]["name"] + "-2026-11-24") <= MAX_NAME["RayJob"]


def test_raycronjob_does_what_the_cronjob_does() -> None:
    objects, plain = rendered(RAYCRONJOB), rendered("cpu")
    retrain = find(objects, "RayCronJob", "retrain")
    cronjob = find(plain, "CronJob", "retrain")
    assert {key: retrain["spec"][key] for key in ("schedule", "timeZone")} == {
        key: cronjob["spec"][key] for key in ("schedule", "timeZone")
    }
    template = find(plain, "RayJob", "retrain")["spec"]
    for key in ("entrypoint", "submitterPodTemplate", "rayClusterSpec"):
        assert retrain["spec"]["jobTemplate"][key] == template[key]
    assert not {"CronJob", "Role", "RoleBinding", "ServiceAccount"} & {each["kind"] for each in objects}


def test_the_pod_that_makes_rayjobs_may_do_nothing_else() -> None:
    objects = rendered("gpu")
    assert find(objects, "Role", "retrain")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "resourceNames": ["retrain"], "verbs": ["get"]},
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]},
    ]
    pod = find(objects, "CronJob", "retrain")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [subject] = find(objects, "RoleBinding", "retrain")["subjects"]
    assert pod["serviceAccountName"] == subject["name"] and subject["namespace"] == "naturaltone"
    assert "ClusterRole" not in {each["kind"] for each in objects}


@pytest.mark.parametrize("name", RENDERED)
def test_a_disruption_budget_of_rays_pods_is_one_that_kubernetes_can_count(name: str) -> None:
    """A RayCluster has no scale, so Kubernetes takes no `maxUnavailable` and no percentage for its pods."""
    budgets = [each["spec"] for each in rendered(name) if each["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    for budget in budgets:
        assert set(budget) == {"minAvailable", "selector"} and isinstance(budget["minAvailable"], int)
    heads, workers = budgets
    assert heads["minAvailable"] > 100 and workers["minAvailable"] == 1


# --- settings that other files have too


SERVE = yaml.safe_load((ROOT / "infra" / "serve" / "serve.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cpu", {}),
        ("gpu", {"network_replicas": 1}),
        ("kind", {"replicas": 2, "min_replicas": 1}),
    ],
)
def test_the_service_has_the_configuration_that_is_tested(name: str, arguments: dict[str, int]) -> None:
    """tests/soak/test_deploy.py deploys infra/serve/serve.yaml. An overlay differs from it only in these arguments."""
    document = yaml.safe_load(find(rendered(name), "RayService", "naturaltone")["spec"]["serveConfigV2"])
    expected = copy.deepcopy(SERVE)
    expected["applications"][0]["args"] |= arguments
    assert document == expected
    [application] = ServeDeploySchema.model_validate(document).applications
    app.AppArgs.model_validate(application.args)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_node_of_the_service_has_the_variables_that_it_needs_before_ray_starts(name: str) -> None:
    objects = rendered(name)
    cluster = manifests.ray_cluster(find(objects, "RayService", "naturaltone"))
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        variables = manifests.environment(container, objects, rendered("kind"))
        assert {**settings.RAY_SERVE, **allocator.SERVE_ENVIRONMENT}.items() <= variables.items()
        [mount] = [each for each in container["volumeMounts"] if each["name"] == "keys"]
        assert variables[settings.API_KEYS] == f"{mount['mountPath']}/keys.txt"
        port = int(variables[settings.METRICS].rpartition(":")[2])
        assert port == 9464 and variables[caches.VARIABLE].startswith("/tmp/")
    config = yaml.safe_load(find(objects, "RayService", "naturaltone")["spec"]["serveConfigV2"])
    arguments = config["applications"][0]["args"]
    there = {"cpu": 0, "nvidia.com/gpu": 0}
    for group in cluster["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        for resource in there:
            there[resource] += group["replicas"] * int(container["resources"]["limits"].get(resource, 0))
    networks = arguments.get("network_replicas", 0)
    assert there["nvidia.com/gpu"] == networks, "each process that runs the network has a GPU"
    assert arguments["replicas"] + networks <= there["cpu"], "each process has a CPU"


def test_the_images_have_the_version_of_this_code() -> None:
    for name, tag in (
        ("cpu", naturaltone.__version__),
        ("gpu", f"{naturaltone.__version__}-cuda"),
        ("kind", naturaltone.__version__),
    ):
        images = {container["image"] for pod in pods(rendered(name)) for container in pod.containers}
        assert {each for each in images if each.startswith("naturaltone")} == {f"naturaltone:{tag}"}
        assert all(re.fullmatch(r".+:\d+\.\d.*", each) for each in images), "pinned"


def test_the_retraining_configuration_is_right_and_uses_what_the_pods_have() -> None:
    config = retrain_config.read_config(str(manifests.FOLDER / "base" / "retrain.toml"))
    [group] = manifests.ray_cluster(find(rendered("gpu"), "RayJob", "retrain"))["workerGroupSpecs"]
    assert config.train.workers == (group["minReplicas"], group["maxReplicas"])
    retrain = find(rendered("cpu"), "RayJob", "retrain")
    [head] = manifests.ray_cluster(retrain)["headGroupSpec"]["template"]["spec"]["containers"]
    assert config.gate.processes == int(head["resources"]["limits"]["cpu"])
    stages = config.limits.ingest + config.limits.train + config.limits.gate + 3 * config.limits.promote
    assert stages < retrain["spec"]["activeDeadlineSeconds"] < 24 * 3600
    places = [config.store, *config.ingest.inputs, *config.ingest.natural]
    jobs = " ".join(each["spec"]["entrypoint"] for each in rendered("cpu") if each["kind"] == "RayJob")
    assert all(place in jobs for place in places), "the first ingest and the nightly one use the same places"
    assert f"--long-side {config.ingest.long_side}" in jobs
