"""The time, as something that can be put in a test's hands."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that never goes back, one that people read."""

    def monotonic_s(self) -> float:
        """For waiting."""

    def unix_ns(self) -> int:
        """For time stamps."""


class SystemClock:
    """The machine's."""

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def unix_ns(self) -> int:
        """See ``Clock``."""
        return time.time_ns()
