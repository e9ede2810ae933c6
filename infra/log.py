"""Sends the output of Ray, MLflow and other packages to a log file; only naturaltone itself writes on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from naturaltone.pipeline.private_folder import private_folder

_KEPT = 20  # log files of earlier commands
_OTHERS = ("ray", "mlflow", "alembic", "py.warnings")


@contextlib.contextmanager
def command_log(command: str) -> Iterator[Path]:
    """Log to a file while a command runs, and yield its path. Warnings of naturaltone also go to the terminal."""
    path = private_folder("logs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
    to_file = logging.FileHandler(path, delay=True)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(logging.Formatter("naturaltone: %(message)s"))
    to_terminal.setLevel(logging.WARNING)
    root, ours = logging.getLogger(), logging.getLogger("naturaltone")
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(to_file)
    ours.addHandler(to_terminal)
    logging.captureWarnings(True)
    try:
        with _without_ray_on(path):
            yield path
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(to_file)
        ours.removeHandler(to_terminal)
        to_file.close()
        _remove_old(path.parent)


def quiet_others() -> None:
    """Send the terminal output of other packages' loggers to the log file.

    Call it again after a package has started, because that adds new loggers.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in _OTHERS:
            logger = logging.getLogger(name)
            for handler in [each for each in logger.handlers if _is_terminal(each)]:
                logger.removeHandler(handler)
                logger.propagate = True


def _is_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


@contextlib.contextmanager
def _without_ray_on(path: Path) -> Iterator[None]:
    """Send the prints of Ray's threads to the log file: they go to stdout and stderr at any log level."""
    before = sys.stdout, sys.stderr
    with open(path, "a") as log:
        sys.stdout, sys.stderr = (_ByThread(stream, log) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _ByThread(io.TextIOBase):
    """A text stream with two targets: `ours` for text of our threads, `rays` for text of Ray's threads."""

    def __init__(self, ours: TextIO, rays: TextIO) -> None:
        self._ours, self._rays = ours, rays

    def write(self, text: str) -> int:
        return self._chosen().write(text)

    def flush(self) -> None:
        self._chosen().flush()

    def isatty(self) -> bool:
        # Python also asks at the exit of the process, when the stream may be closed.
        return not self._ours.closed and self._ours.isatty()

    def fileno(self) -> int:
        return self._ours.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._ours.encoding

    def _chosen(self) -> TextIO:
        return self._rays if threading.current_thread().name.startswith("ray_") else self._ours


def _remove_old(folder: Path) -> None:
    logs = sorted(folder.glob("*.log"))
    for path in logs[:-_KEPT]:
        path.unlink(missing_ok=True)
