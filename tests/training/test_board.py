"""The board keeps the newest progress and needs no torch in its process."""

from __future__ import annotations

import subprocess
import sys

from naturaltone.training.board import Board


def test_the_newest_progress_is_read() -> None:
    board = Board()
    assert board.read() == (0, {})
    board.post(3, {"loss": 1.0})
    board.post(5, {"loss": 0.5})
    assert board.read() == (5, {"loss": 0.5})


def test_its_module_imports_nothing_heavy() -> None:
    script = "import naturaltone.training.board, sys; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
