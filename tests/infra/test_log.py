"""Only naturaltone writes on the terminal; the output of other packages goes to a log file."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import pytest

from naturaltone.infra import log


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log, "private_folder", lambda name: tmp_path)
    return tmp_path


def test_prints_of_rays_threads_go_to_the_file_and_ours_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with log.command_log("train") as path:
        thread = threading.Thread(target=print, args=("(raylet) WARNING: 8 workers",), name="ray_listen_error_messages")
        thread.start()
        thread.join()
        print("ours")
    print("after")
    assert capsys.readouterr().out == "ours\nafter\n"
    assert "8 workers" in path.read_text()


def test_our_warnings_are_shown_and_other_warnings_go_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    noisy = logging.getLogger("ray.noisy")
    noisy.addHandler(logging.StreamHandler())
    with log.command_log("train") as path:
        log.quiet_others()
        noisy.error("from Ray")
        warnings.warn("from a library", stacklevel=1)
        logging.getLogger("naturaltone.training").warning("no tracking server")
    assert capsys.readouterr().err == "naturaltone: no tracking server\n"
    kept = path.read_text()
    assert "from Ray" in kept and "from a library" in kept and "tracking server" in kept


def test_logs_do_not_pile_up(own_folder: Path) -> None:
    for number in range(30):
        (own_folder / f"20260101-{number:06}-train-1.log").touch()
    with log.command_log("train") as path:
        pass
    assert len(list(own_folder.glob("*.log"))) == 20 and path.exists()
