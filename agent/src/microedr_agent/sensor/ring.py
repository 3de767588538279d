"""Reads a BPF ring buffer through its mapping, without a system call per sample.

The kernel documents the layout in Documentation/bpf/ringbuf.rst: one page with the consumer's position, which
is ours to write; one with the producer's; then the data, mapped twice in a row so that no sample is broken at
the end. Each sample has a header of eight bytes whose first word is its length and two flags.

Order of memory. What the consumer needs is: read the producer's position before any header (acquire), read a
header before its data (acquire), and finish with data before it gives the space back (release). x86-64 never
reorders a load with a load, nor a store with an earlier load, so plain accesses do. On other machines a full
barrier stands at the three places: membarrier(2) with GLOBAL_EXPEDITED begins with one, also in a process of
one thread (PRIVATE_EXPEDITED returns before it there). CPython reads and writes an aligned 8-byte element of
a memoryview with one access. Reads are made in rounds, so that the barriers cost three calls per round, not per
sample.
"""

import ctypes
import mmap
import os
from collections.abc import Callable

_BUSY = 0x8000_0000
_DISCARDED = 0x4000_0000
_LENGTH = 0x3FFF_FFFF
_HEADER_BYTES = 8
_GLOBAL_EXPEDITED = 2
_MEMBARRIER = {"aarch64": 283, "riscv64": 283}
_STRONGLY_ORDERED = frozenset({"x86_64"})


def _nothing() -> None:
    """The barrier that a strongly ordered machine needs."""


def barrier_for(machine: str) -> Callable[[], None]:
    """A full memory barrier on this machine.

    Raises:
        OSError: The kernel refuses membarrier: without it samples could be misread.
    """
    if machine in _STRONGLY_ORDERED:
        return _nothing
    libc = ctypes.CDLL(None, use_errno=True)
    number = _MEMBARRIER[machine]

    def barrier() -> None:
        if libc.syscall(number, _GLOBAL_EXPEDITED, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"membarrier: {os.strerror(code)}")

    barrier()
    return barrier


class Ring:
    """One ring buffer map of ``size_bytes``, read by this process alone.

    The mapping stays valid without privileges; the descriptor serves to be woken, see ``waiter``.
    """

    def __init__(self, map_fd: int, size_bytes: int, barrier: Callable[[], None] | None = None) -> None:
        page = mmap.PAGESIZE
        self._map_fd = map_fd
        self._mask = size_bytes - 1
        self._consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(map_fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer_at = memoryview(self._consumer)[:8].cast("Q")
        self._producer_at = memoryview(self._producer)[:8].cast("Q")
        self._bytes = memoryview(self._producer)[page:]
        self._words = self._bytes.cast("I")
        self._barrier = barrier or barrier_for(os.uname().machine)

    def fileno(self) -> int:
        """For an edge-triggered epoll: the kernel wakes it when the ring is a quarter full."""
        return self._map_fd

    @property
    def backlog_bytes(self) -> int:
        """Written by the kernel and not read yet, headers included."""
        return int(self._producer_at[0] - self._consumer_at[0])

    def drain(self, max_samples: int) -> list[bytes]:
        """Copies of the finished samples in order, at most ``max_samples``; their space is given back."""
        position = self._consumer_at[0]
        end = self._producer_at[0]
        if position == end:
            return []
        self._barrier()
        spans, position = self._finished(position, end, max_samples)
        self._barrier()
        data = self._bytes
        samples = [bytes(data[start:stop]) for start, stop in spans]
        self._barrier()
        self._consumer_at[0] = position
        return samples

    def _finished(self, position: int, end: int, max_samples: int) -> tuple[list[tuple[int, int]], int]:
        """Where the data of finished samples lie, and the position behind the last of them."""
        mask, words = self._mask, self._words
        spans: list[tuple[int, int]] = []
        while position < end and len(spans) < max_samples:
            offset = position & mask
            header = words[offset >> 2]
            if header & _BUSY:
                break
            length = header & _LENGTH
            if not header & _DISCARDED:
                spans.append((offset + _HEADER_BYTES, offset + _HEADER_BYTES + length))
            position += (length + _HEADER_BYTES + 7) & ~7
        return spans, position
