"""Every limit both ends enforce, each with its reason."""

MAX_MESSAGE_BYTES = 1024 * 1024
"""One gRPC message. Four MiB of empty sub-messages parse to 24 times their size; at one MiB
the worst case stays near 24 MiB."""

MAX_FRAME_EVENTS = 500
"""Events an agent puts into one frame. Frames of 100 to 500 events cost least per event."""

MAX_BATCH_EVENTS = 2000
"""Events ingest accepts in one frame: the main spec's ``batch_max_events``."""

TARGET_FRAME_RAW_BYTES = 256 * 1024
"""An agent seals a frame when its events reach this size before compression."""

MAX_FRAME_RAW_BYTES = 960 * 1024
"""A frame's content after decompression. It becomes one Kafka record, whose default limit of
1 MiB also holds the headers."""

MAX_FRAME_RATIO = 1000
"""Decompressed over compressed size. Real frames stay below 100; bombs reach tens of thousands."""

MAX_FRAME_AGE_S = 0.5
"""How long an event may wait for its frame to fill. A frame costs an agent some milliseconds of CPU on both sides
of the spool, however few events it holds; the wait is half of the second in which an alert must be readable."""

MAX_EVENT_BYTES = 64 * 1024
"""One encoded event: 4 KiB of argv, paths and names leave a wide margin."""

MAX_ARGV_BYTES = 4096
"""Bytes of argv copied in the kernel at exec."""

MAX_HOST_ID_CHARS = 64
"""Of host and tenant ids alike. Host ids are UUIDs or short names: letters, digits, ``.``, ``_`` and ``-``."""

MAX_ACTION_BYTES = 16 * 1024
"""One serialised Action, checked before its signature is."""

MAX_ACTION_LIFE_S = 300
"""From ``not_before`` to ``expires`` of an Action: an order that waits longer was decided on
facts that no longer hold."""

PROCESS_TICK_NS = 10_000_000
"""Resolution of process start times in ``/proc``: USER_HZ is 100 on every Linux ABI. Start times
are compared in these ticks, so that both sources name a process alike."""

SCHEMA_VERSION = 1
"""Of ``AgentEvent``. Grows only when a reader of the old one would misread the new one."""
