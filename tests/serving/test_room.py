"""Memory for photos is limited, huge photos get their turn, and a dead worker frees its slots."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from naturaltone.serving import room

_HOLDER = """
import time
from naturaltone.serving.room import room_for
with room_for(1000, slots=4):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_workers_never_hold_more_slots_than_there_are() -> None:
    slots, under_work, most, guard = 4, 0, 0, threading.Lock()
    sizes = [1, 16, 17, 40, 60, 64, 200, 5, 33, 12] * 3

    def work(megapixels: float) -> None:
        nonlocal under_work, most
        wanted = min(slots, -(-megapixels // 16))
        with room.room_for(megapixels, slots=slots):
            with guard:
                under_work += wanted
                most = max(most, under_work)
            threading.Event().wait(0.002)
            with guard:
                under_work -= wanted

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert under_work == 0 and 1 < most <= slots


def test_a_photo_larger_than_all_slots_waits_until_it_is_alone() -> None:
    done = threading.Event()

    def huge() -> None:
        with room.room_for(10_000, slots=2):
            done.set()

    with room.room_for(1, slots=2):
        thread = threading.Thread(target=huge)
        thread.start()
        assert not done.wait(0.3)
    thread.join(30)
    assert done.is_set()


def test_a_killed_worker_frees_its_slots() -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    with room.room_for(1000, slots=4):
        pass


def test_every_machine_has_at_least_one_slot() -> None:
    assert room.total_slots() >= 1
