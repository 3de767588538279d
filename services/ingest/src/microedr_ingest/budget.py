"""A byte budget that all streams share: while it is used up, nobody decompresses another frame."""

import asyncio
from collections import deque


class ByteBudget:
    """Taking never waits, so use may exceed the total by the last frame taken; ``room`` waits its turn."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def used_bytes(self) -> int:
        """Taken and not given back."""
        return self._used_bytes

    @property
    def is_full(self) -> bool:
        """Whether ``room`` would wait."""
        return self._used_bytes >= self._total_bytes

    def take(self, size_bytes: int) -> None:
        """Use ``size_bytes``. To be called right after ``room``, with nothing awaited in between."""
        self._used_bytes += size_bytes
        self._wake()

    def give_back(self, size_bytes: int) -> None:
        """Use it no longer."""
        self._used_bytes -= size_bytes
        self._wake()

    async def room(self) -> None:
        """Wait until the budget is not full. Cancelling is safe."""
        while self.is_full:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # the turn may have been ours
                raise

    def _wake(self) -> None:
        # One at a time: whoever takes wakes the next, as long as there is room.
        while self._waiting and not self.is_full:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
