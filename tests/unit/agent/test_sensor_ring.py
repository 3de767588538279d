"""The ring reader takes finished samples in order, waits for unfinished ones and gives their space back."""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from microedr_agent.sensor.ring import Ring, barrier_for

SIZE = 8192
PAGE = mmap.PAGESIZE
BUSY = 0x8000_0000
DISCARDED = 0x4000_0000


class _FakeKernel:
    """The producer: a file laid out as a ring buffer map, the second copy of the data kept equal to the first."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = 0

    def put(self, data: bytes, flags: int = 0) -> int:
        """Reserve and submit; returns where its header lies."""
        at = self.position
        self.write(at, struct.pack("<II", len(data) | flags, 0) + data)
        self.position += (len(data) + 8 + 7) & ~7
        os.pwrite(self.fd, struct.pack("<Q", self.position), PAGE)
        return at

    def write(self, at: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            offset = (at + index) % SIZE
            for copy in (0, SIZE):
                os.pwrite(self.fd, bytes((byte,)), 2 * PAGE + copy + offset)

    @property
    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture
def kernel() -> Iterator[_FakeKernel]:
    made = _FakeKernel()
    yield made
    os.close(made.fd)


def test_samples_come_once_and_in_order(kernel: _FakeKernel) -> None:
    ring = Ring(kernel.fd, SIZE)
    kernel.put(b"one")
    kernel.put(b"two two two")

    assert ring.drain(100) == [b"one", b"two two two"]
    assert ring.drain(100) == []
    assert kernel.consumed == kernel.position
    assert ring.backlog_bytes == 0


def test_an_unfinished_sample_holds_back_those_behind_it(kernel: _FakeKernel) -> None:
    ring = Ring(kernel.fd, SIZE)
    kernel.put(b"done")
    at = kernel.put(b"late", BUSY)
    kernel.put(b"behind")
    first = ring.drain(100)
    kernel.write(at, struct.pack("<I", 4))

    assert first == [b"done"]
    assert ring.drain(100) == [b"late", b"behind"]


def test_discarded_samples_are_passed_over(kernel: _FakeKernel) -> None:
    ring = Ring(kernel.fd, SIZE)
    kernel.put(b"no", DISCARDED)
    kernel.put(b"yes")

    assert ring.drain(100) == [b"yes"]


def test_samples_that_cross_the_end_are_whole(kernel: _FakeKernel) -> None:
    ring = Ring(kernel.fd, SIZE)
    wanted = [bytes((number,)) * 300 for number in range(100)]
    got = []
    for sample in wanted:
        kernel.put(sample)
        got += ring.drain(100)

    assert got == wanted


def test_a_round_is_bounded_and_the_rest_comes_next(kernel: _FakeKernel) -> None:
    ring = Ring(kernel.fd, SIZE)
    for number in range(5):
        kernel.put(bytes((number,)))

    assert ring.drain(3) == [b"\0", b"\1", b"\2"]
    assert ring.drain(3) == [b"\3", b"\4"]


def test_a_barrier_stands_at_three_places_where_the_machine_needs_one(kernel: _FakeKernel) -> None:
    barriers = []
    ring = Ring(kernel.fd, SIZE, lambda: barriers.append(kernel.consumed))
    kernel.put(b"one")
    ring.drain(100)

    assert barriers == [0, 0, 0]
    assert kernel.consumed == kernel.position


def test_x86_needs_no_barrier_and_an_unknown_machine_is_not_guessed_at() -> None:
    barrier_for("x86_64")()

    with pytest.raises(KeyError):
        barrier_for("sparc64")
