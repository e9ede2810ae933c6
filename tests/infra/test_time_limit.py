"""Work that takes too long is ended, whatever the wall clock says; work that is quick is left alone."""

from __future__ import annotations

import signal
import time

import pytest

from naturaltone.infra.time_limit import TookTooLong, time_limit


def test_long_work_ends_with_one_line() -> None:
    begun = time.monotonic()
    with pytest.raises(TookTooLong, match=r"slot a: train took longer than 0 s; give the same command again"):
        with time_limit(0.2, "slot a: train"):
            time.sleep(30)
    assert time.monotonic() - begun < 10


def test_after_quick_work_no_timer_is_left() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0.2, "work"):
        pass
    time.sleep(0.4)
    assert signal.getsignal(signal.SIGALRM) is before
