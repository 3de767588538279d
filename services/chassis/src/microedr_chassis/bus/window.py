"""The publishing window: how much is under way, and the pause after a failure."""

import asyncio

from microedr_chassis.bus.api import BusStatistics, TopicPartition
from microedr_chassis.errors import BusFullError, BusUnavailableError

Place = tuple[TopicPartition, int]
"""Where a published record stands."""

COOL_DOWN_S = 0.1
"""After a failure submits are refused this long. Publishers learn of failures through callbacks of
their event loop; none of them may slip a later record in before it has learned."""


class PublishWindow:
    """Counts what is under way; lives on the event loop's thread, as ``submit`` does."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records = 0
        self._bytes = 0
        self._submitted = 0
        self._published = 0
        self._failed = 0
        self._refused = 0
        self._cooling = False
        self._failure = ""
        self.generation = 0
        """Grows with each failure: what was submitted before it must fail as well."""

    def admit(self, size_bytes: int) -> None:
        """Count one more under way.

        Raises:
            BusFullError: There is no room. One record always fits into an empty window.
            BusUnavailableError: Something failed a moment ago.
        """
        if self._cooling:
            self._refused += 1
            raise BusUnavailableError(self._failure)
        if self._records and (self._records >= self._max_records or self._bytes + size_bytes > self._max_bytes):
            self._refused += 1
            raise BusFullError(f"{self._records} records of {self._bytes} bytes are under way")
        self._records += 1
        self._bytes += size_bytes
        self._submitted += 1

    def retract(self, size_bytes: int) -> None:
        """What was admitted a moment ago could not be put under way after all."""
        self._records -= 1
        self._bytes -= size_bytes
        self._submitted -= 1
        self._refused += 1

    def doomed(self, generation: int) -> bool:
        """Whether what was submitted in ``generation`` must fail because something before it did."""
        return self._cooling or generation != self.generation

    def settle(self, future: "asyncio.Future[Place]", size_bytes: int, outcome: Place | BaseException) -> None:
        """One less under way: tell whoever waits for it."""
        self._records -= 1
        self._bytes -= size_bytes
        if isinstance(outcome, BaseException):
            self._failed += 1
            if not future.done():
                future.set_exception(outcome)
                # A publisher that went away must not make the loop complain.
                future.add_done_callback(_retrieve)
        else:
            self._published += 1
            if not future.done():
                future.set_result(outcome)

    def cool_down(self, failure: str) -> None:
        """Refuse submits for a moment; what is under way now belongs to the generation that fails."""
        self._failure = failure
        if not self._cooling:
            self._cooling = True
            asyncio.get_running_loop().call_later(COOL_DOWN_S, self._warm_up)

    def _warm_up(self) -> None:
        self._cooling = False
        self.generation += 1

    def statistics(self) -> BusStatistics:
        """Of this moment."""
        return BusStatistics(
            submitted_total=self._submitted,
            published_total=self._published,
            failed_total=self._failed,
            refused_total=self._refused,
            in_flight=self._records,
            in_flight_bytes=self._bytes,
        )


def _retrieve(future: "asyncio.Future[Place]") -> None:
    if not future.cancelled():
        future.exception()
