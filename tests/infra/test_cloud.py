"""infra/cloud/aws.yaml follows Ray's schema, and its commands are ones that exist. Nobody has launched it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private import util

from tests.commands import taken_by
from tests.compose import ROOT

FILE = ROOT / "infra/cloud/aws.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text())


def check(document: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` checks before it asks the cloud for anything; the document with Ray's defaults."""
    util.validate_config(prepared := util.prepare_config(copy.deepcopy(document)))
    return prepared


def test_ray_takes_it_as_it_is() -> None:
    prepared = check(DOCUMENT)
    for part in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[part] == [], "Ray's defaults would install another version of Ray"
    assert set(prepared["available_node_types"]) == {"head", "worker", "gpu"}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda document: document.update(max_worker=8), id="an unknown field"),
        pytest.param(lambda document: document["docker"].update(images="x"), id="an unknown field of docker"),
        pytest.param(lambda document: document.update(head_node_type="heads"), id="a head of no type"),
        pytest.param(lambda document: document["available_node_types"]["gpu"].pop("resources"), id="no resources"),
        pytest.param(lambda document: document["auth"].update(ssh_user=1), id="a wrong type"),
        pytest.param(
            lambda document: document["available_node_types"]["worker"].update(max_workers="many"), id="no number"
        ),
    ],
)
def test_a_mistake_is_found(damage: Callable[[dict[str, Any]], object]) -> None:
    document = copy.deepcopy(DOCUMENT)
    damage(document)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(document)


def test_every_node_has_the_token_and_its_commands_can_be_typed() -> None:
    assert "~/.ray/auth_token" in DOCUMENT["file_mounts"]
    lines = DOCUMENT["head_start_ray_commands"] + DOCUMENT["worker_start_ray_commands"]
    starts = [shlex.split(line) for line in lines if " start " in line]
    assert len(starts) == 2 and all(words[:3] == ["RAY_AUTH_MODE=token", "ray", "start"] for words in starts)
    commands = [words[2:] for words in starts]
    assert taken_by("ray", [*commands, [*commands[0], "--gone"]]) == [True, True, False]
