"""The log of the service: one JSON object a line, with the id of the request that it is about."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to(path: str) -> None:
    """Write the log of this process to a file, or to stderr if `path` is empty. Several processes may write to one file."""
    # This handler opens the file again after logrotate has moved it.
    handler = logging.handlers.WatchedFileHandler(path, delay=True) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    ours = logging.getLogger("naturaltone")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False
