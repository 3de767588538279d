"""The one partitioner: murmur2 as Kafka's Java client computes it.

librdkafka's default is CRC32 and aiokafka's is murmur2: left alone, two clients would spread one
host over two partitions and its order would be lost.
"""

import functools

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_UINT32 = 0xFFFFFFFF
_CACHED_KEYS = 65536
"""Keys are host ids, few and seen again and again; hashing one in Python takes about 4 us."""


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of ``key`` in a topic of ``partitions`` partitions, the same for every client."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


@functools.lru_cache(maxsize=_CACHED_KEYS)
def _murmur2(key: bytes) -> int:
    """Unsigned 32-bit murmur2 of ``key`` with Kafka's seed."""
    length = len(key)
    whole = length & ~3
    digest = (_SEED ^ length) & _UINT32
    for start in range(0, whole, 4):
        word = (int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER) & _UINT32
        word = ((word ^ (word >> 24)) * _MULTIPLIER) & _UINT32
        digest = ((digest * _MULTIPLIER) & _UINT32) ^ word
    if whole != length:
        digest = ((digest ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER) & _UINT32
    digest = ((digest ^ (digest >> 13)) * _MULTIPLIER) & _UINT32
    return digest ^ (digest >> 15)
