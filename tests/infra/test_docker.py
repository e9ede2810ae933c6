"""The Dockerfile is clean by hadolint, gets what it needs from the clone and nothing else, and agrees with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils import exclude_paths

import naturaltone
from naturaltone import cli
from naturaltone.pipeline import caches
from naturaltone.serving.service import settings
from tests.test_architecture import ROOT

DOCKERFILE = ROOT / "infra/docker/Dockerfile"
FOLDERS = ["pipeline", "training", "serving", "infra", "naturaltone"]
TEXT = DOCKERFILE.read_text()
BUILD, _, RESULT = TEXT.rpartition("\nFROM ")


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run(
        [program, "--no-color", path], cwd=path.parent, capture_output=True, text=True, check=False, timeout=60
    )


def instruction(name: str) -> str:
    """The last instruction of this name, in the stage that becomes the image."""
    return re.findall(rf"^{name} ((?:.*\\\n)*.*)", RESULT, re.MULTILINE)[-1].replace("\\\n", " ")


def environment() -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in instruction("ENV").split())


def test_hadolint_finds_nothing() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        pytest.param("FROM ${BASE} AS build", "FROM python AS build", "DL3006", id="a base without a version"),
        pytest.param("USER 10001:10001", "USER root", "DL3002", id="root"),
        pytest.param("PIP_NO_CACHE_DIR=1", "PIP_PROGRESS_BAR=off", "DL3042", id="a cache in a layer"),
        pytest.param("WORKDIR /source", "WORKDIR source", "DL3000", id="a relative folder"),
        pytest.param("exit 2 ;; \\\n    esac", "exit 2 ;; \\\n", "DL1000|SC1", id="a broken script"),
    ],
)
def test_hadolint_finds_a_mistake(before: str, after: str, rule: str, tmp_path: Path) -> None:
    assert TEXT.count(before) == 1
    (tmp_path / "Dockerfile").write_text(TEXT.replace(before, after))
    done = hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1 and re.search(rule, done.stdout), done.stdout


def test_the_base_is_pinned_and_the_result_is_made_of_it() -> None:
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", TEXT, re.MULTILINE)
    assert RESULT.startswith("${BASE}\n"), "the stage that builds is left behind"
    assert not re.search(r"apt-get|pip |gcc|build-essential", RESULT)


def test_the_image_runs_as_a_user_without_a_name_to_look_up() -> None:
    """By number: Kubernetes' `runAsNonRoot` cannot tell what a name means."""
    assert instruction("USER") == "10001:10001"


def test_the_build_installs_what_the_project_declares() -> None:
    assert "'dependencies'" in BUILD and "--constraint constraints.txt" in BUILD
    declared = (ROOT / "pyproject.toml").read_text()
    [extras] = re.findall(r"^ARG EXTRAS=(.*)", BUILD, re.MULTILINE)
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras.split(","))


def test_the_labels_are_true() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', instruction("LABEL")))
    declared = (ROOT / "pyproject.toml").read_text()
    assert labels["version"] == naturaltone.__version__
    assert f'description = "{labels["description"]}"' in declared and f'license = "{labels["licenses"]}"' in declared
    assert labels["revision"] == "$REVISION" and labels["created"] == "$CREATED"


def test_a_ray_node_of_the_image_has_the_variables_that_the_service_needs() -> None:
    assert settings.RAY_SERVE.items() <= environment().items()


def test_the_kernel_is_compiled_for_the_cpu_and_the_path_that_the_result_has() -> None:
    """numba looks for a kernel by the CPU's name and by the folder of the source file."""
    [compiled] = re.findall(r"^ENV (NUMBA_CPU_NAME=\S+) \\\n +(NUMBA_CPU_FEATURES=)$", BUILD, re.MULTILINE)
    assert set(compiled) <= {f"{name}={value}" for name, value in environment().items()}
    built = environment()[caches.BUILT]
    assert f"RUN {caches.VARIABLE}={built} \\\n    python -P -c" in BUILD and built.startswith("/opt/naturaltone/")
    assert "apply._apply.stats.cache_misses" in RESULT, "the build fails if the result does not find it"
    assert "COPY --from=build /opt/naturaltone /opt/naturaltone\n" in RESULT
    assert f"--group 10001 {environment()[caches.VARIABLE]}\n" in RESULT, "and the user may write to its own cache"


def test_the_container_serves_and_asks_itself_whether_it_does() -> None:
    name, *arguments = json.loads(instruction("CMD"))
    options = cli._parser().parse_args(arguments)
    assert (name, options.command, options.host) == ("naturaltone", "serve", "0.0.0.0")
    exposed = instruction("EXPOSE").split()
    assert exposed == [str(options.port), options.metrics.rpartition(":")[2]]
    assert f"127.0.0.1:{options.port}/healthz" in instruction("HEALTHCHECK")


def context(folder: Path) -> set[str]:
    """The files that a builder gets from the folder, by Docker's own rules."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return set(exclude_paths(str(folder), patterns))


def test_the_builder_gets_the_whole_package() -> None:
    tracked = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = {*tracked.stdout.split(), "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"}
    assert needed <= context(ROOT)


def test_the_builder_gets_no_photos_secrets_or_history(tmp_path: Path) -> None:
    private = [
        ".git/config",
        ".env",
        "infra/.env",
        "photos/me.jpg",
        "demo/x",
        "keys.txt",
        ".venv/bin/python",
        "tests/a.py",
    ]
    for name in [*private, "infra/__pycache__/local.pyc", "serving/apply.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {name for name in context(tmp_path) if (tmp_path / name).is_file()} == {"serving/apply.py"}
