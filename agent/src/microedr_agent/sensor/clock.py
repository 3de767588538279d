"""From the kernel's clock, which counts from boot, to the wall clock, which people set."""

import time

STEP_NS = 1_000_000_000
"""A change of this size is somebody setting the clock; smaller ones are a daemon keeping it right."""


class WallClock:
    """What to add to nanoseconds since boot to get Unix nanoseconds. Measure it often: NTP moves it."""

    def __init__(self) -> None:
        self.offset_ns = _measure()

    def measure(self) -> bool:
        """Take the offset of this moment; True when it jumped."""
        before, self.offset_ns = self.offset_ns, _measure()
        return abs(self.offset_ns - before) >= STEP_NS


def _measure() -> int:
    boot_before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wall = time.time_ns()
    boot_after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # A wall clock that says less than the host has been up is not set; times must not be negative all the same.
    return max(wall - (boot_before + boot_after) // 2, 0)
