"""Log lines of the agent: one JSON object a line on standard error.

Not ``logging`` and not structlog: both cost more memory than the sensor has to spare. Events are
static, past tense and snake_case; data are fields. Never argv, environment, keys or tokens.
"""

import contextlib
import json
import os
import time
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
_STDERR = 2


class Log:
    """Writes lines of one process; ``fields`` stand on each of them."""

    def __init__(self, process: str, level: Level = "info", **fields: object) -> None:
        self._least = LEVELS.index(level)
        self._fields = {"process": process, "pid": os.getpid(), **fields}

    def debug(self, event: str, **fields: object) -> None:
        """Noise."""
        self._write(0, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """A change of state."""
        self._write(1, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """A surprise that was dealt with."""
        self._write(2, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Someone must act."""
        self._write(3, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if level < self._least:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = {"timestamp": stamp, "level": LEVELS[level], "event": event, **self._fields, **fields}
        # One write, so that lines of the three processes never mix; one that nobody takes must not stop the agent.
        with contextlib.suppress(OSError):
            os.write(_STDERR, (json.dumps(line, default=str) + "\n").encode())
