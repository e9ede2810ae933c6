"""What docs/serving.md tells people to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.service.service import Service
from tests.serving.service.conftest import guarded

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "serving.md"
LOCAL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_its_client_and_its_curl_lines_enhance_a_photo(
    service: Service,
    tmp_path: Path,
    photo: np.ndarray,
    to_file: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(to_file(photo))
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) >= 4
    with guarded(service) as server:
        for line in lines:
            command = shlex.split(line.replace(LOCAL, server.address))
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        for name in ("enhanced.jpg", "softer.jpg", "enhanced.webp"):
            assert decode((tmp_path / name).read_bytes()).pixels.shape == photo.shape
        by_curl = (tmp_path / "enhanced.jpg").read_bytes()
        (tmp_path / "enhanced.jpg").unlink()
        [client] = blocks("python")
        assert len(client.splitlines()) <= 35
        subprocess.run([sys.executable, "-c", client.replace(LOCAL, server.address)], check=True, timeout=60)
        assert (tmp_path / "enhanced.jpg").read_bytes() == by_curl
