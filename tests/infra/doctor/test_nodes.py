"""Machines of a cluster that differ from the others are named."""

from __future__ import annotations

import dataclasses

import pytest

from naturaltone.infra import local
from naturaltone.infra.doctor import machine, nodes
from naturaltone.infra.doctor.finding import Finding, Status
from naturaltone.infra.doctor.machine import GIB

VERSIONS = {"naturaltone": "1.0", "Ray": "2.60.0"}
GOOD = nodes.Node(
    name="a (10.0.0.1)",
    versions=VERSIONS,
    apart=0.0,
    sees_store=True,
    gpus=1,
    usable_gpus=1,
    memory=16 * GIB,
    free_disk=50 * GIB,
)


def judge(**of_b: object) -> dict[str, Finding]:
    """The findings on a good machine and a machine `b` that differs from it, by check."""
    two = [GOOD, dataclasses.replace(GOOD, name="b (10.0.0.2)", **of_b)]  # type: ignore[arg-type]
    return {each.check.partition(",")[0]: each for each in nodes.judge(two, {}, own=VERSIONS)}


def test_equal_machines_are_well() -> None:
    assert {each.status for each in judge().values()} == {Status.OK}


@pytest.mark.parametrize(
    ("of_b", "check", "said"),
    [
        (
            {"versions": {**VERSIONS, "Ray": "2.59.0"}},
            "versions on all machines",
            "b (10.0.0.2) has Ray 2.59.0, we 2.60.0",
        ),
        ({"sees_store": False}, "store on all machines", "b (10.0.0.2) cannot see the store's folder"),
        ({"usable_gpus": 0}, "GPUs of the machines", "b (10.0.0.2): Ray counts 1, torch can use 0"),
        ({"free_disk": 2**20}, "room on the machines", "b (10.0.0.2): 16.0 GiB of memory, 0.0 GiB of disk"),
        ({"memory": GIB}, "room on the machines", "b (10.0.0.2): 1.0 GiB of memory"),
        ({"apart": 400.0}, "clocks of the machines", "differs by 400 s"),
    ],
)
def test_what_one_machine_lacks_is_a_failure_that_names_it(of_b: dict[str, object], check: str, said: str) -> None:
    found = judge(**of_b)
    assert found[check].status is Status.FAILURE and said in found[check].found and found[check].remedy
    assert {name for name, each in found.items() if each.status is Status.FAILURE} == {check}


def test_a_store_on_s3_needs_no_shared_folder() -> None:
    two = [dataclasses.replace(GOOD, sees_store=None)] * 2
    assert "store on all machines" not in {each.check for each in nodes.judge(two, {}, own=VERSIONS)}


def test_a_machine_that_does_not_answer_is_named_with_the_reason() -> None:
    found = next(iter(nodes.judge([GOOD], {"c": "No module named 'naturaltone'"}, own=VERSIONS)))
    assert found.status is Status.FAILURE and "c: No module named 'naturaltone'" in found.found


@pytest.mark.parametrize(
    ("asks", "for_deployment", "status"),
    [(True, True, Status.OK), (False, False, Status.WARNING), (False, True, Status.FAILURE)],
)
def test_a_cluster_without_a_token_is_open_to_everybody(asks: bool, for_deployment: bool, status: Status) -> None:
    assert nodes.check_token(asks=asks, for_deployment=for_deployment).status is status


def test_a_cluster_that_does_not_answer_is_a_failure() -> None:
    found = list(nodes.check_cluster(f"127.0.0.1:{local.free_port()}", None, for_deployment=False))
    assert [each.status for each in found] == [Status.FAILURE] and "no Ray cluster answers" in found[0].found


def test_the_machines_of_a_real_ray_describe_themselves(ray_cluster: None, tmp_path) -> None:  # type: ignore[no-untyped-def]
    answers, silent = nodes.look(str(tmp_path))
    assert silent == {} and len(answers) == 1
    assert answers[0].versions == machine.versions() and answers[0].sees_store and answers[0].apart < 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert nodes.look("s3://bucket/store")[0][0].sees_store is None
