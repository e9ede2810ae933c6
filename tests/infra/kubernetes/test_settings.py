"""Settings that other files have too are the same in the manifests."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

import naturaltone
from naturaltone.infra import retrain_config
from naturaltone.pipeline import caches
from naturaltone.serving.service import app, settings
from naturaltone.training import allocator
from tests.infra.kubernetes import manifests
from tests.infra.kubernetes.manifests import (
    OVERLAYS,
    find,
    pods,
    rendered,
)
from tests.test_architecture import ROOT

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
