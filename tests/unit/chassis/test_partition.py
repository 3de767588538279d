"""Our partitioner is Kafka's: the vectors are those of Kafka's own tests."""

import pytest

from microedr_chassis.bus import partition
from microedr_chassis.bus.partition import partition_of


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_the_one_of_kafkas_java_client(key: bytes, signed: int) -> None:
    assert partition._murmur2(key) == signed & 0xFFFFFFFF
    assert partition_of(key, 12) == (signed & 0x7FFFFFFF) % 12


def test_every_partition_gets_its_share_of_many_hosts() -> None:
    found = [partition_of(b"host-%d" % number, 8) for number in range(8000)]

    assert all(800 < found.count(number) < 1200 for number in range(8))
