"""Each check of a machine passes on a good one, and fails on one that lacks what it checks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from naturaltone.infra import local
from naturaltone.infra.doctor import machine
from naturaltone.infra.doctor.finding import Status
from naturaltone.infra.doctor.machine import GIB

DRIVER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.2.0\n"
)


def test_every_check_of_this_machine_ends_with_a_finding() -> None:
    findings = list(machine.check_machine())
    assert len({each.check for each in findings}) == len(findings) >= 10
    assert all(bool(each.remedy) == (each.status is not Status.OK) for each in findings)


def test_versions_name_all_that_a_cluster_must_share() -> None:
    assert machine.versions()["torch"] == torch.__version__
    assert set(machine.versions()) == {"naturaltone", "Python", "torch", "Ray"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_driver_whose_gpu_torch_cannot_use_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "version").write_text(DRIVER)
    found = machine.check_gpu(tmp_path / "version")
    assert found.status is Status.FAILURE and "driver 550.54.15, but torch" in found.found
    assert "CUDA" in found.remedy
    assert machine.check_gpu(tmp_path / "absent").status is Status.WARNING


def test_a_codec_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_codecs().status is Status.OK
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP")
    found = machine.check_codecs()
    assert found.status is Status.FAILURE and "cannot write and read WEBP (" in found.found


def test_optional_parts_that_are_missing_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.check_heic(True).status is Status.OK
    assert "naturaltone[heif]" in machine.check_heic(False).remedy
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.check_exiftool().status is Status.WARNING
    (tmp_path / "exiftool").touch(mode=0o755)
    assert machine.check_exiftool().status is Status.OK


@pytest.mark.parametrize(
    ("gibibytes", "status"), [(2, Status.FAILURE), (6, Status.WARNING), (16, Status.OK)], ids=lambda value: str(value)
)
def test_too_little_memory_is_said(gibibytes: int, status: Status) -> None:
    assert machine.check_memory(gibibytes * GIB, 3).status is status


def test_shared_memory_that_is_too_small_for_ray_is_said(disk: Callable[[int], Path], tmp_path: Path) -> None:
    folder = disk(2**20)
    assert machine.check_shared_memory(folder, 2 * 2**20).status is Status.OK
    found = machine.check_shared_memory(folder, 100 * 2**20)
    assert found.status is Status.WARNING and "--shm-size" in found.remedy
    assert machine.check_shared_memory(tmp_path / "absent", GIB).status is Status.WARNING


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_failures(
    disk: Callable[[int], Path], tmp_path: Path
) -> None:
    found = machine.check_folder("disk", disk(2**20), "TMPDIR")
    assert found.status is Status.FAILURE and "set TMPDIR" in found.remedy
    (tmp_path / "file").touch()
    found = machine.check_folder("disk", tmp_path / "file", "TMPDIR")
    assert found.status is Status.FAILURE and "cannot be written" in found.found


def test_a_disk_above_rays_limit_is_a_failure_though_it_has_gibibytes_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(1000 * GIB, 940 * GIB, 60 * GIB))
    assert machine.check_folder("disk", tmp_path, "TMPDIR").status is Status.OK
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(1000 * GIB, 960 * GIB, 40 * GIB))
    found = machine.check_folder("disk", tmp_path, "TMPDIR")
    assert found.status is Status.FAILURE and "Ray starts no task" in found.found
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_port_that_is_taken_is_named_with_the_program_that_has_it() -> None:
    port = local.free_port()
    assert machine.check_free_port("port", port, "serve --port").status is Status.OK
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = machine.check_free_port("port", port, "serve --port")
        process.communicate(b"\n")
    assert found.status is Status.WARNING and f"by process {process.pid}" in found.found
    with socket.create_server(("127.0.0.1", port)):
        assert machine.check_free_port("port", port, "serve --port").found == f"{port} is taken"
