"""compose.yaml follows the schema of Compose, and its commands, variables and files are ones that exist."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from naturaltone import cli
from naturaltone.infra import local
from naturaltone.pipeline import caches
from naturaltone.serving.service import access, settings
from tests import commands as commands_of
from tests.compose import FILE, ROOT, SECRETS, interpolate, ours, project

# compose-go v2.9.1, schema/compose-spec.json; Apache-2.0, Copyright 2020 The Compose Specification Authors.
SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
MONITORING = ROOT / "infra/monitoring"


def mistakes(document: dict[str, Any]) -> list[str]:
    """What the schema and the references between the parts say against it."""
    found = [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)]
    if found:
        return found
    services = document["services"]
    for name, each in services.items():
        needed = each.get("depends_on", {})
        found += [f"{name} depends on {other}" for other in needed if other not in services]
        for other, need in needed.items() if isinstance(needed, dict) else []:
            checked = services.get(other, {}).get("healthcheck", {"disable": True})
            if need["condition"] == "service_healthy" and checked.get("disable"):
                found.append(f"{name} waits for the health of {other}, which has no check")
        for mount in each.get("volumes", []):
            source, _, target = mount.partition(":")
            if target and not source.startswith((".", "/")) and source not in document["volumes"]:
                found.append(f"{name} mounts {source}")
        found += [
            f"{name} has {config}" for config in each.get("configs", []) if config["source"] not in document["configs"]
        ]
    return found


def test_it_follows_the_schema_of_compose() -> None:
    assert mistakes(project()) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda services: services["s3"].update(healthchek={}), id="an unknown field"),
        pytest.param(lambda services: services["worker"].update(cap_drop="ALL"), id="a wrong type"),
        pytest.param(
            lambda services: services["mlflow"]["depends_on"].update(bucket={"condition": "ready"}), id="a condition"
        ),
        pytest.param(lambda services: services.pop("bucket"), id="a service that is gone"),
        pytest.param(
            lambda services: services["head"].update(healthcheck={"disable": True}), id="no check to wait for"
        ),
        pytest.param(
            lambda services: services["s3"].update(volumes=["data:/data"]), id="a volume that is not declared"
        ),
        pytest.param(lambda services: services["grafana"]["configs"][0].update(source="x"), id="a config likewise"),
    ],
)
def test_a_mistake_is_found(damage: Callable[[dict[str, Any]], object]) -> None:
    document = copy.deepcopy(project())
    damage(document["services"])
    assert mistakes(document)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_no_secret_has_a_default(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: write .* into infra/\.env"):
        project({key: value for key, value in SECRETS.items() if key != name})


def test_every_image_is_pinned_and_the_rights_are_few() -> None:
    for name, each in project()["services"].items():
        assert each["image"] == "naturaltone:cpu" or re.search(r":v?\d+\.\d+\S*@sha256:[0-9a-f]{64}$", each["image"]), (
            name
        )
        assert (
            each["read_only"] and each["cap_drop"] == ["ALL"] and each["security_opt"] == ["no-new-privileges:true"]
        ), name
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", [])), (
            f"{name}: only this machine reaches it"
        )


_STALE = "--gone=1"


@functools.cache
def taken_by(program: str) -> dict[tuple[str, ...], bool]:
    """Which of the program's commands it takes, with a stale argument too. They do not run."""
    asked = [each for command in commands() if command[0] == program for each in (command, [*command, _STALE])]
    return dict(zip(map(tuple, asked), commands_of.taken_by(program, [each[1:] for each in asked]), strict=True))


def parse(command: list[str]) -> bool:
    """Whether the command's own program takes the arguments."""
    if command[0] != "naturaltone":
        return taken_by(command[0])[tuple(command)]
    try:
        return bool(cli._parser().parse_args(command[1:]))
    except SystemExit:
        return False


def commands() -> list[list[str]]:
    """Of the services and of their health checks. test_the_bucket_is_made runs the one of rclone."""
    services = ours().values()
    checks = [each["healthcheck"]["test"][1:] for each in services if "test" in each.get("healthcheck", {})]
    return [
        command for command in [each["command"] for each in services] + checks if command[0] not in ("rclone", "python")
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_can_be_typed(command: list[str]) -> None:
    assert parse(command)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_stale_argument_is_found(command: list[str]) -> None:
    assert not parse([*command, _STALE])


def test_the_bucket_is_made(object_store: local.ObjectStore) -> None:
    """The command of `bucket`, run against the embedded server."""
    from naturaltone.pipeline import s3

    command = [
        word.replace("http://s3:9000", object_store.environment["AWS_ENDPOINT_URL"])
        for word in ours()["bucket"]["command"]
    ]
    command[-1] = command[-1].removesuffix("naturaltone") + "of-compose"
    command[0] = local._rclone()
    for _ in range(2):  # it may exist
        subprocess.run(command, check=True, timeout=60)
    assert "of-compose" in {bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]}


def known_variables() -> set[str]:
    """Those that the code reads, by the constants that name them."""
    from naturaltone.training import allocator

    constants = [value for module in (settings, caches) for value in vars(module).values() if isinstance(value, str)]
    return {*constants, *settings.RAY_SERVE, *allocator.KEEP_ENVIRONMENT}


def test_every_variable_is_one_that_is_read() -> None:
    of_others = {
        *(
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
            "AWS_EC2_METADATA_DISABLED",
        ),
        *(
            "MLFLOW_TRACKING_URI",
            "MLFLOW_DISABLE_TELEMETRY",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
            "PGPASSWORD",
            "RAY_ADDRESS",
            "RAY_AUTH_MODE",
            "RAY_AUTH_TOKEN",
        ),
    }
    for name, each in ours().items():
        assert set(each["environment"]) <= known_variables() | of_others, name


def test_every_node_and_every_command_has_the_token() -> None:
    for name, each in ours().items():
        assert each["environment"]["RAY_AUTH_MODE"] == "token", name
        assert each["environment"]["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"], name
    assert access.Keys(SECRETS["NATURALTONE_API_KEYS"]) and "NATURALTONE_API_KEYS" in ours()["service"]["environment"]


def test_servers_and_clients_agree_on_names_ports_and_secrets() -> None:
    services, used = project()["services"], ours()
    environment = used["service"]["environment"]
    assert environment["AWS_ENDPOINT_URL"] == f"http://s3{services['s3']['environment']['RUSTFS_ADDRESS']}"
    assert environment["AWS_ACCESS_KEY_ID"] == services["s3"]["environment"]["RUSTFS_ACCESS_KEY"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == services["s3"]["environment"]["RUSTFS_SECRET_KEY"]
    assert environment["MLFLOW_TRACKING_URI"].removeprefix("http://") in " ".join(services["mlflow"]["command"])
    assert services["mlflow"]["environment"]["PGPASSWORD"] == services["postgresql"]["environment"]["POSTGRES_PASSWORD"]
    assert f"--address={used['head']['environment']['RAY_ADDRESS']}" in used["worker"]["command"]


def test_prometheus_asks_where_the_figures_are() -> None:
    services = project()["services"]
    scraped = yaml.safe_load((MONITORING / "prometheus.compose.yaml").read_text())["scrape_configs"]
    [fixed] = [each["static_configs"] for each in scraped if "static_configs" in each]
    [found] = [each["dns_sd_configs"] for each in scraped if "dns_sd_configs" in each]
    options = cli._parser().parse_args(services["service"]["command"][1:])
    assert fixed == [{"targets": [f"service:{options.metrics.rpartition(':')[2]}"]}]
    assert found == [{"names": ["head", "worker"], "type": "A", "port": 8080}]
    for node in found[0]["names"]:
        assert "--metrics-export-port=8080" in services[node]["command"]


def mounted(document: dict[str, Any], service: str, target: str) -> Path:
    """The file of the clone that the service finds at `target`."""
    for mount in document["services"][service]["volumes"]:
        source, _, rest = mount.partition(":")
        folder = rest.removesuffix(":ro")
        if source.startswith("./") and target.startswith(folder):
            return FILE.parent / source / target.removeprefix(folder).lstrip("/")
    raise AssertionError(f"{service} has nothing at {target}")


def test_prometheus_and_grafana_find_their_files() -> None:
    document = project()
    [configuration] = [
        word.partition("=")[2] for word in document["services"]["prometheus"]["command"] if "config.file" in word
    ]
    assert mounted(document, "prometheus", configuration).resolve() == MONITORING / "prometheus.compose.yaml"
    configs = {name: yaml.safe_load(each["content"]) for name, each in document["configs"].items()}
    [provider] = configs["grafana-dashboards"]["providers"]
    dashboards = mounted(document, "grafana", provider["options"]["path"])
    assert sorted(dashboards.glob("*.json"))
    [data] = configs["grafana-data"]["datasources"]
    assert data["url"] == "http://prometheus:9090" and data["type"] == "prometheus"


def promtool(folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if not program:
        pytest.skip("the check of Prometheus' configuration takes promtool, of Debian's package prometheus")
    return subprocess.run(
        [program, "check", "config", folder / "prometheus.compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))
    done = promtool(folder)
    assert done.returncode == 0, done.stderr


def test_prometheus_refuses_a_mistake(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))
    text = (folder / "prometheus.compose.yaml").read_text()
    (folder / "prometheus.compose.yaml").write_text(text.replace("dns_sd_configs", "dns_configs"))
    assert promtool(folder).returncode


def test_a_default_and_a_value_are_put_in_as_compose_does() -> None:
    assert interpolate("${A:-x}/${B}", {"B": "b"}) == "x/b" and interpolate("${A:-x}", {"A": "a"}) == "a"


def test_the_commands_of_the_page_can_be_typed_and_name_what_exists() -> None:
    text = (ROOT / "docs/images.md").read_text().replace("\\\n", " ")
    typed = re.findall(r"(?:exec head|naturaltone:cpu) (naturaltone [^\n#]+)", text)
    assert len(typed) == 4
    for command in typed:
        assert parse(shlex.split(command))
    arguments = re.findall(r"--build-arg (\w+)=", text)
    declared = re.findall(r"^ARG (\w+)", (ROOT / "infra/docker/Dockerfile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(declared) and all(f"`{name}`" in text for name in declared)
    made = re.findall(r"^for name in (.*); do$", text, re.MULTILINE)[0].split() + re.findall(r'"([A-Z_]+)=\$\(', text)
    assert set(made) == set(SECRETS), "the page makes each secret"
