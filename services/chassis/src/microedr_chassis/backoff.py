"""How long to wait before the next attempt."""

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Pauses that double, each spread over its upper half, so that many waiters do not return at once."""

    first_s: float = 0.1
    most_s: float = 10.0
    _attempts: int = 0

    def next_s(self) -> float:
        """Length of the next pause, seconds."""
        full_s = min(self.most_s, self.first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret

    def reset(self) -> None:
        """An attempt went well."""
        self._attempts = 0
