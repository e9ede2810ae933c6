"""Ray's clusters and jobs do what KubeRay needs and its schemas do not say."""

from __future__ import annotations

import re

import pytest

from naturaltone.infra.launch import parse_workers
from tests.infra.kubernetes import manifests
from tests.infra.kubernetes.check import MAX_NAME
from tests.infra.kubernetes.manifests import (
    RAYCRONJOB,
    RENDERED,
    Manifest,
    find,
    rendered,
)
from tests.test_architecture import ROOT


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
