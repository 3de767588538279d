"""The logs inside a bus file: append, read, find by time, delete by age. One thread per ``LogFile``."""

import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping, Sequence

from microedr_chassis.bus.api import ConsumedRecord, Record, TopicPartition, TopicSpec
from microedr_chassis.bus.partition import partition_of
from microedr_chassis.bus.sqlite.schema import OFFSET_BITS
from microedr_chassis.errors import BusRecordError, BusTopicError

_OFFSET_MASK = (1 << OFFSET_BITS) - 1
_HEADER = struct.Struct("<HI")
"""Length of a header's name and of its value."""

_MAX_FETCH_BYTES = 8 * 1024 * 1024
"""One read returns at most this and one record more, however many records were asked for."""

_TRIM_RECORDS = 256
"""Records deleted per step: a step takes milliseconds, publishers wait no longer than that."""


class LogFile:
    """One connection's view of the logs; what it remembers is thrown away with the transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._partitions: dict[str, list[int]] = {}
        self._sources: dict[int, TopicPartition] = {}
        self._ends: dict[int, tuple[int, int]] = {}
        self._data_version = -1

    def begin(self, mode: str) -> None:
        """Begin a transaction; forget the ends when another connection wrote since the last one."""
        self.connection.execute(f"BEGIN {mode}")
        if mode == "IMMEDIATE":
            version = self.data_version()
            if version != self._data_version:
                self._ends.clear()
                self._data_version = version

    def data_version(self) -> int:
        """Changes when another connection, of any process, has committed."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def forget(self) -> None:
        """The transaction was rolled back: what it did is undone."""
        self._ends.clear()
        self._partitions.clear()
        self._sources.clear()

    def ensure_topic(self, spec: TopicSpec) -> None:
        """Create it when missing; its retention is taken over when it exists.

        Raises:
            BusTopicError: It has another partition count.
        """
        row = self.connection.execute("SELECT partitions FROM topics WHERE name = ?", (spec.name,)).fetchone()
        if row is not None and row[0] != spec.partitions:
            raise BusTopicError(f"topic {spec.name} has {row[0]} partitions, not {spec.partitions}")
        self.connection.execute(
            "INSERT INTO topics VALUES (?, ?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET retention_s = excluded.retention_s, compacted = excluded.compacted",
            (spec.name, spec.partitions, spec.retention_s, spec.compacted),
        )
        self.connection.executemany(
            "INSERT OR IGNORE INTO logs (topic, partition) VALUES (?, ?)",
            [(spec.name, number) for number in range(spec.partitions)],
        )

    def logs_of(self, topic: str) -> list[int]:
        """Its logs, by partition.

        Raises:
            BusTopicError: There is no such topic.
        """
        logs = self._partitions.get(topic)
        if logs is None:
            rows = self.connection.execute(
                "SELECT log, partition FROM logs WHERE topic = ? ORDER BY partition", (topic,)
            ).fetchall()
            if not rows:
                raise BusTopicError(f"topic {topic} does not exist")
            logs = self._partitions[topic] = [log for log, _ in rows]
            self._sources.update({log: TopicPartition(topic, partition) for log, partition in rows})
        return logs

    def log_of(self, source: TopicPartition) -> int:
        """Number of this log."""
        return self.logs_of(source.topic)[source.partition]

    def source_of(self, log: int) -> TopicPartition:
        """Name of this log, whose topic was asked for before."""
        return self._sources[log]

    def append(self, records: Iterable[Record]) -> list[tuple[TopicPartition, int] | BusRecordError]:
        """Append within the transaction that is open; a place, or why there is none, for each."""
        now_ms = time.time_ns() // 1_000_000
        outcomes: list[tuple[TopicPartition, int] | BusRecordError] = []
        rows = []
        touched = set()
        for record in records:
            try:
                logs = self.logs_of(record.topic)
            except BusTopicError as error:
                outcomes.append(BusRecordError(str(error)))
                continue
            log = logs[partition_of(record.key, len(logs))]
            offset, last_ms = self._end(log)
            # Times never run backwards within a log, whatever the clock does: they are searched by halving.
            at_ms = max(now_ms, last_ms)
            self._ends[log] = (offset + 1, at_ms)
            touched.add(log)
            headers = _pack(record.headers)
            rows.append((log << OFFSET_BITS | offset, at_ms, record.key, headers, record.value))
            outcomes.append((self._sources[log], offset))
        self.connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        self.connection.executemany(
            "UPDATE logs SET next_offset = ?, last_unix_ms = ? WHERE log = ?",
            [(*self._ends[log], log) for log in touched],
        )
        return outcomes

    def _end(self, log: int) -> tuple[int, int]:
        end = self._ends.get(log)
        if end is None:
            end = self.connection.execute("SELECT next_offset, last_unix_ms FROM logs WHERE log = ?", (log,)).fetchone()
        return end

    def ends(self) -> dict[int, int]:
        """The offset the next record of each log will have."""
        return dict(self.connection.execute("SELECT log, next_offset FROM logs"))

    def first(self, log: int) -> int:
        """Offset of the oldest record kept; the end when there is none."""
        low, high = log << OFFSET_BITS, (log + 1) << OFFSET_BITS
        (first,) = self.connection.execute(
            "SELECT min(id) FROM records WHERE id >= ? AND id < ?", (low, high)
        ).fetchone()
        if first is not None:
            return int(first) & _OFFSET_MASK
        return int(self.connection.execute("SELECT next_offset FROM logs WHERE log = ?", (log,)).fetchone()[0])

    def read(self, positions: Mapping[TopicPartition, int], max_records: int) -> Sequence[ConsumedRecord]:
        """From these positions on, source by source."""
        records: list[ConsumedRecord] = []
        size_bytes = 0
        ends = self.ends()
        for source, position in positions.items():
            log = self.log_of(source)
            if position >= ends[log]:
                continue
            rows = self.connection.execute(
                "SELECT id, unix_ms, key, headers, value FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (log << OFFSET_BITS | position, (log + 1) << OFFSET_BITS, max_records - len(records)),
            )
            for row_id, at_ms, key, headers, value in rows:
                records.append(ConsumedRecord(*source, row_id & _OFFSET_MASK, at_ms, key, value, _unpack(headers)))
                size_bytes += len(value)
                if size_bytes >= _MAX_FETCH_BYTES or len(records) == max_records:
                    return records
        return records

    def offset_at(self, log: int, timestamp_unix_ms: int) -> int:
        """First record at or after this time, else the end; gaps of deleted records do not matter."""
        low, high = self.first(log), self.ends()[log]
        while low < high:
            middle = (low + high) // 2
            row = self.connection.execute(
                "SELECT id, unix_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                (log << OFFSET_BITS | middle, log << OFFSET_BITS | high),
            ).fetchone()
            if row is None or row[1] >= timestamp_unix_ms:
                high = middle
            else:
                low = (int(row[0]) & _OFFSET_MASK) + 1
        return low

    def trim(self, log: int, cutoff_unix_ms: int, keep_from: int) -> bool:
        """Delete some records older than the cutoff, never ``keep_from`` and later; whether more may follow."""
        low = log << OFFSET_BITS
        deleted = self.connection.execute(
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)"
            " AND unix_ms < ?",
            (low, low | keep_from, _TRIM_RECORDS, cutoff_unix_ms),
        ).rowcount
        return deleted == _TRIM_RECORDS

    def compact(self, log: int) -> bool:
        """Delete some records whose key has a newer one; whether more may follow."""
        low, high = log << OFFSET_BITS, (log + 1) << OFFSET_BITS
        deleted = self.connection.execute(
            "DELETE FROM records WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER"
            " (PARTITION BY key ORDER BY id DESC) AS age FROM records WHERE id >= ? AND id < ?)"
            " WHERE age > 1 LIMIT ?)",
            (low, high, _TRIM_RECORDS),
        ).rowcount
        return deleted == _TRIM_RECORDS


def _pack(headers: Mapping[str, bytes]) -> bytes:
    parts: list[bytes] = []
    for name, value in headers.items():
        encoded = name.encode()
        parts += (_HEADER.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


def _unpack(packed: bytes) -> dict[str, bytes]:
    headers = {}
    at = 0
    while at < len(packed):
        name_bytes, value_bytes = _HEADER.unpack_from(packed, at)
        at += _HEADER.size
        name = packed[at : at + name_bytes].decode()
        at += name_bytes
        headers[name] = packed[at : at + value_bytes]
        at += value_bytes
    return headers
