"""The units for a nightly slot are right by systemd's own check, and call the command that exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from naturaltone import cli
from tests.test_architecture import ROOT

FOLDER = ROOT / "infra/systemd"
UNITS = ("naturaltone-retrain.service", "naturaltone-retrain.timer")


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *UNITS], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists, because systemd looks for it."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("the check of the units takes systemd-analyze")
    for name in UNITS:
        text = (FOLDER / name).read_text().replace("/opt/naturaltone/bin/naturaltone", "/bin/true")
        (tmp_path / name).write_text(text.replace("User=naturaltone\n", ""))
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    done = verify(units)
    ours = [line for line in done.stderr.splitlines() if "naturaltone" in line]
    assert done.returncode == 0 and not ours, done.stderr


@pytest.mark.parametrize(
    ("name", "before", "after"), [(UNITS[0], "oneshot", "onshot"), (UNITS[1], "02:00:00", "26:00")]
)
def test_the_check_finds_a_mistake(units: Path, name: str, before: str, after: str) -> None:
    (units / name).write_text((units / name).read_text().replace(before, after))
    assert "naturaltone-retrain" in verify(units).stderr


def test_the_commands_are_ours_and_their_arguments_are_right() -> None:
    lines = [line for path in sorted(FOLDER.iterdir()) for line in path.read_text().splitlines()]
    commands = [match[1] for line in lines if (match := re.search(r"bin/naturaltone (.*?)(?: >>|$)", line))]
    assert len(commands) == 3
    for command in commands:
        options = cli._parser().parse_args(command.split())
        assert options.command == "retrain" and options.config == "/etc/naturaltone/retrain.toml"
