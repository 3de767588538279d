"""When the writer deletes: by age, by key in compacted topics, in steps between the commits.

The file does not shrink; the space is used again. Records a group with living members has not
consumed are kept however old they are: a slow group costs disk, never records.
"""

import time
from collections import deque

from microedr_chassis.bus.sqlite import groups
from microedr_chassis.bus.sqlite.log import LogFile

ROUND_S = 60.0
"""From one round through all logs to the next."""


class Maintenance:
    """The rounds of one writer; lives on its thread."""

    def __init__(self, round_s: float = ROUND_S) -> None:
        self._round_s = round_s
        self._next_round_s = time.monotonic() + round_s
        self._left: deque[tuple[str, int, int, bool]] = deque()

    def due_in_s(self) -> float:
        """Until the next step, if nothing else is to be done."""
        return 0.0 if self._left else max(0.0, self._next_round_s - time.monotonic())

    def postpone(self) -> None:
        """Give up this round."""
        self._left.clear()
        self._next_round_s = time.monotonic() + self._round_s

    def step(self, file: LogFile, now_unix_ms: int) -> None:
        """Delete a little of the log whose turn it is; begin a round when one is due."""
        if not self._left:
            self.postpone()
            self._left.extend(
                file.connection.execute(
                    "SELECT topic, log, retention_s, compacted FROM topics JOIN logs ON topics.name = logs.topic"
                )
            )
            return
        topic, log, retention_s, compacted = self._left[0]
        if compacted:
            more = file.compact(log)
        else:
            more = file.trim(log, now_unix_ms - retention_s * 1000, groups.unread_from(file, topic, log))
        if not more:
            self._left.popleft()
