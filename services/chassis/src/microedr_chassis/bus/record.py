"""What makes a record publishable, the same for every backend."""

from microedr_chassis.bus.api import Record
from microedr_chassis.errors import BusRecordError

MAX_RECORD_BYTES = 1_000_000
"""Key, value and headers together. Kafka's default for a batch is 1,048,588 bytes, its own framing
included; the largest frame (``limits.MAX_FRAME_RAW_BYTES``) fits with its headers."""

DEAD_LETTER_EXTRA_BYTES = 16 * 1024
"""What a dead letter may be larger: every record that was published can be published again
together with the reason why nobody can read it."""

_MAX_HEADERS = 64


def check_record(record: Record) -> int:
    """Size of ``record`` in bytes.

    Raises:
        BusRecordError: It is too large, has no key or too many headers.
    """
    size_bytes = len(record.key) + len(record.value)
    for name, value in record.headers.items():
        size_bytes += len(name) + len(value)
    limit_bytes = MAX_RECORD_BYTES
    if record.topic.endswith(".dlq"):
        limit_bytes += DEAD_LETTER_EXTRA_BYTES
    if size_bytes > limit_bytes:
        raise BusRecordError(f"record of {size_bytes} bytes for {record.topic}: at most {limit_bytes} are allowed")
    if not record.key:
        raise BusRecordError(f"record for {record.topic} has no key: its place would be left to chance")
    if len(record.headers) > _MAX_HEADERS:
        raise BusRecordError(f"record for {record.topic} has {len(record.headers)} headers: at most {_MAX_HEADERS}")
    return size_bytes
