"""How a service lives: started in order, stopped in reverse, healthy while its loop advances."""

import time
from dataclasses import dataclass, field
from typing import Protocol


class Service(Protocol):
    """What ``microedr up`` and a service's own process run alike."""

    name: str

    async def start(self) -> None:
        """Acquire what is needed; returns when the service is ready to do its work.

        Raises:
            ChassisError: It cannot; everything acquired so far was released.
        """

    async def serve(self) -> None:
        """Do the work until ``stop`` is called; raises when it cannot go on."""

    async def stop(self) -> None:
        """Finish what was promised, release everything; ``serve`` returns. Idempotent, at most a few seconds."""

    def health(self) -> "Health":
        """Of this moment; does no I/O."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a service works and, when not, why."""

    ok: bool
    detail: str = ""
    alive: bool = True
    """False: it is stuck, and only a new process helps. What it needs being away is not that."""


@dataclass(slots=True)
class Progress:
    """Health by loop progress: a loop that ticks is alive, one that does not is stuck."""

    stale_after_s: float = 30.0
    _last_monotonic_s: float = field(default_factory=time.monotonic)
    _problem: str = ""

    def tick(self) -> None:
        """The loop came round and nothing is wrong."""
        self._last_monotonic_s = time.monotonic()
        self._problem = ""

    def degrade(self, problem: str) -> None:
        """The loop came round but cannot do its work: what it waits for is away."""
        self._last_monotonic_s = time.monotonic()
        self._problem = problem

    def health(self) -> Health:
        """Of this moment."""
        idle_s = time.monotonic() - self._last_monotonic_s
        if idle_s > self.stale_after_s:
            return Health(ok=False, detail=f"no progress for {idle_s:.0f} s", alive=False)
        return Health(ok=not self._problem, detail=self._problem)
