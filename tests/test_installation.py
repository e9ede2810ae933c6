"""The interpreter and every tool see all code as the one package `naturaltone`; its dependencies are declared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mypy.find_sources import create_source_list
from mypy.options import Options

ROOT = Path(__file__).parent.parent
FOLDERS = ["pipeline", "training", "serving", "infra"]


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def modules() -> set[Path]:
    return {path.resolve() for folder in [*FOLDERS, "naturaltone"] for path in (ROOT / folder).rglob("*.py")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_editable_install_brings_no_name_but_ours(folder: str, tmp_path: Path) -> None:
    script = f"import naturaltone.{folder}, importlib.util; print(importlib.util.find_spec('{folder}'))"
    done = run([sys.executable, "-c", script], tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr


def test_the_folders_are_real_and_the_names_are_relative_links() -> None:
    for folder in FOLDERS:
        link = ROOT / "naturaltone" / folder
        assert (ROOT / folder).is_dir() and not (ROOT / folder).is_symlink()
        assert str(link.readlink()) == f"../{folder}", "a relative link works in any clone"


def test_mypy_sees_every_file_once_under_its_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sources = create_source_list(["naturaltone"], Options())
    assert all(source.module.split(".")[0] == "naturaltone" for source in sources)
    assert sorted(Path(str(source.path)).resolve() for source in sources) == sorted(modules())


def test_ruff_sees_every_file_once() -> None:
    shown = run([sys.executable, "-m", "ruff", "check", "--show-files", "."], ROOT).stdout.split("\n")
    seen = [Path(line).resolve() for line in shown if line.endswith(".py")]
    assert len(seen) == len(set(seen)) and modules() <= set(seen)


def test_python_m_naturaltone_is_the_command(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "naturaltone", "--help"], tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: naturaltone")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["."], id="every import is declared, and every dependency is used"),
        # Tests need not use every dependency (DEP002), and they may import those of [dev] (DEP004).
        pytest.param(
            ["tests", "--exclude", "nothing", "--ignore", "DEP002,DEP004"], id="every import of the tests is declared"
        ),
    ],
)
def test_dependencies_are_declared_and_used(arguments: list[str]) -> None:
    done = run([sys.executable, "-m", "deptry", "--no-ansi", *arguments], ROOT)
    assert done.returncode == 0, done.stderr
