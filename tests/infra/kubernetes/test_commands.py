"""The commands of the containers: each is one that its program takes. tests/soak/test_kubernetes.py runs them."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.cli import cli as mlflow_cli

from naturaltone import cli
from naturaltone.infra.launch import parse_workers
from naturaltone.training.config import make_config
from tests.infra.kubernetes.manifests import RENDERED, find, pods, rendered

# What a submitter of KubeRay 1.7.0 runs, without the waiting (controllers/ray/common/job.go): one line for bash.
SUBMIT = "ray job submit --address {address} -- {entrypoint} ;"


def driver_command(entrypoint: str, folder: Path) -> str:
    """The command as Ray's head gets it: after the submitter's shell, and after `ray job submit` has quoted it again."""
    program = folder / "ray"
    program.write_text(
        f"#!{sys.executable}\nimport shlex, sys\nprint(shlex.join(sys.argv[sys.argv.index('--') + 1:]))\n"
    )
    program.chmod(0o755)
    line = SUBMIT.format(address="http://head:8265", entrypoint=entrypoint.strip())
    command = ["/bin/bash", "-ce", "--", line]
    done = subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def entrypoints(name: str) -> dict[str, str]:
    """The entrypoint of each RayJob and RayCronJob."""
    found = {}
    for each in rendered(name):
        if each["kind"] in ("RayJob", "RayCronJob"):
            spec = each["spec"].get("jobTemplate", each["spec"])
            found[f"{each['kind']}/{each['metadata']['name']}"] = spec["entrypoint"]
    return found


def _parsed(command: str) -> argparse.Namespace:
    words = shlex.split(command)
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2].partition("||")[0])
    assert words[0] == "naturaltone"
    return cli._parser().parse_args(words[1:])


@pytest.mark.parametrize("name", RENDERED)
def test_every_entrypoint_is_a_command_that_naturaltone_takes(name: str, tmp_path: Path) -> None:
    commands = {job: _parsed(driver_command(entrypoint, tmp_path)) for job, entrypoint in entrypoints(name).items()}
    assert [commands[f"RayJob/{job}"].command for job in ("ingest-inputs", "train", "enhance", "retrain")] == [
        *("ingest", "train", "enhance", "retrain"),
    ]
    for options in commands.values():
        if options.command == "train":
            make_config(options.recipe, options.set)
            parse_workers(options.workers)
            assert options.out.startswith("/tmp/"), "the current folder cannot be written"
        if options.command == "retrain":
            [volume] = [
                volume
                for pod in pods(rendered(name))
                for volume in pod.spec.get("volumes", [])
                if volume.get("configMap", {}).get("name") == "retrain"
            ][:1]
            assert Path(options.config).name in find(rendered(name), "ConfigMap", volume["configMap"]["name"])["data"]


def test_an_argument_that_is_stale_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entrypoint = entrypoints("cpu")["RayJob/ingest-inputs"].replace("--role", "--kind")
    with pytest.raises(SystemExit):
        _parsed(driver_command(entrypoint, tmp_path))
    assert "--role" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize("job", ["ingest-inputs", "ingest-natural", "enhance"])
def test_rejected_photos_do_not_fail_a_job_and_all_else_does(
    job: str, code: int, expected: int, tmp_path: Path
) -> None:
    """Two shells and `ray job submit` quote the entrypoint; its `$?` must survive them."""
    command = driver_command(entrypoints("cpu")[f"RayJob/{job}"], tmp_path)
    program = tmp_path / "naturaltone"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    done = subprocess.run(command, shell=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)  # as Ray does
    assert done.returncode == expected


def _containers(image: str) -> Iterator[tuple[str, list[str]]]:
    for pod in pods(rendered("cpu")):
        for container in pod.containers:
            if container["image"].partition(":")[0] == image:
                yield container["name"], [*container.get("command", []), *container.get("args", [])]


def test_every_other_command_of_our_image_is_known() -> None:
    """Ray's containers have no command, because KubeRay gives them theirs."""
    commands = {name: command for name, command in _containers("naturaltone") if command}
    assert set(commands) == {"bucket", "mlflow", "retrain"}
    for name in ("bucket", "retrain"):
        assert commands[name][0] == "python"
    compile(commands["bucket"][2], "bucket", "exec")
    assert importlib.util.find_spec(commands["retrain"][2])
    program, command, *arguments = commands["mlflow"]
    assert program == "mlflow"
    mlflow_cli.commands[command].make_context(command, arguments)
    with pytest.raises(Exception, match="No such option"):
        mlflow_cli.commands[command].make_context(command, [*arguments, "--stale"])


def test_the_other_images_have_the_commands_that_we_checked() -> None:
    """RustFS is not to be had here: its arguments are those of its chart at this version, and were not run."""
    assert list(_containers("rustfs/rustfs")) == [("rustfs", ["/usr/bin/rustfs", "/data"])]
    assert [command[0] for _, command in _containers("postgres")] == ["postgres"]
