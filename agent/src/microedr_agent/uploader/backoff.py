"""How long to wait before the next try: longer each time, never the same for all agents."""

import random

FIRST_S = 0.2
LAST_S = 30.0


class Backoff:
    """Doubles from 0.2 s to 30 s; each wait is drawn from the upper half, so that agents spread out."""

    def __init__(self, first_s: float = FIRST_S, last_s: float = LAST_S) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The wait before the next try."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
        self._next_s = min(self._next_s * 2, self._last_s)
        return wait_s

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self._next_s = self._first_s
