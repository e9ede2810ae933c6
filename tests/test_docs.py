"""What the pages say can be done: commands parse, links lead somewhere, and the README's Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from naturaltone import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def _pages() -> list[Path]:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in tracked.stdout.split()]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def _commands() -> list[str]:
    """The commands in blocks and in tables. In a sentence, a command may be named without its operands."""
    found = set()
    for page in [README, *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
        found |= {command.strip() for command in re.findall(r"^naturaltone [^#\n]+", blocks, re.MULTILINE)}
        found |= {
            command for command in re.findall(r"`(naturaltone \w+ [^`]+)`", rows) if not re.search("[A-Z]{2,}", command)
        }
    return sorted(found)


@pytest.mark.parametrize("command", _commands())
def test_every_command_can_be_typed_as_printed(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])[1:]
    assert cli._parser().parse_args(words).command == words[0]


def test_the_commands_are_found() -> None:
    assert len(_commands()) > 10


def test_the_readmes_python_enhances_an_array_and_a_file(
    photo: np.ndarray, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [script] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes((photo_folder / "01.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {"pixels": photo}
    exec(script, names)
    assert names["pixels"].shape == photo.shape and not np.array_equal(names["pixels"], photo)
    assert (tmp_path / "enhanced.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text().splitlines()) <= 90
