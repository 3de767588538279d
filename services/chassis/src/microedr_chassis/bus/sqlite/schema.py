"""Open a bus file: its tables, its durability, and what its errors mean."""

import contextlib
import os
import sqlite3
from pathlib import Path

from microedr_chassis.errors import BusDamagedError, BusError, BusUnavailableError

APPLICATION_ID = 0x6D656472
"""``medr``, at byte 68 of the file: ``file(1)`` and we tell it from other databases by it."""

SCHEMA_VERSION = 1

OFFSET_BITS = 40
"""A record's rowid is ``log << 40 | offset``: each log is one run of the table, so that appending and
reading in order need no second index. 2^40 records per partition, 2^23 partitions."""

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process's commit; commits take milliseconds."""

_PAGE_BYTES = 8192
_CHECKPOINT_PAGES = 2000
"""The log is copied into the file every 16 MB: rarer costs disk, more often costs syncs."""

_CACHE_KIB = 4096

_TABLES = f"""
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, retention_s INTEGER NOT NULL, compacted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE logs (
    log INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0, last_unix_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition)
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL
);
CREATE TABLE groups (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    grp TEXT NOT NULL, member TEXT NOT NULL, incarnation TEXT NOT NULL, session TEXT NOT NULL,
    topics TEXT NOT NULL, PRIMARY KEY (grp, member)
) WITHOUT ROWID;
CREATE TABLE owners (
    grp TEXT NOT NULL, log INTEGER NOT NULL, member TEXT NOT NULL, PRIMARY KEY (grp, log)
) WITHOUT ROWID;
CREATE TABLE offsets (
    grp TEXT NOT NULL, log INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (grp, log)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH})
_PRIMARY_CODE = 0xFF
"""Extended result codes carry the primary one in their low byte."""


def open_file(path: Path) -> sqlite3.Connection:
    """A connection to the bus file at ``path``, which is created when missing, for its owner only.

    Raises:
        BusDamagedError: It is not a bus file, or a newer one.
        BusUnavailableError: It can not be opened now.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise BusUnavailableError(f"bus file {path}: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise bus_error(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # Looked at before anything is written: it may be another program's.
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if _pragma(connection, "application_id") != (APPLICATION_ID if tables else 0):
        raise BusDamagedError(f"bus file {path} is another program's database")
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: the commit returns after the sync of the log, which is what a publish promises.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {8 * _CHECKPOINT_PAGES * _PAGE_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not tables:
        _create(connection)
    version = _pragma(connection, "user_version")
    if version != SCHEMA_VERSION:
        raise BusDamagedError(f"bus file {path} has format {version}; this program reads {SCHEMA_VERSION}")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have created them while this one waited.
        if _pragma(connection, "application_id") == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if there is one, without a word."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def bus_error(error: sqlite3.Error, path: Path) -> BusError:
    """What ``error`` means for whoever uses the bus."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if code & _PRIMARY_CODE in _DAMAGED:
        return BusDamagedError(f"bus file {path} is damaged: {error} ({name}); move it away to begin with an empty one")
    return BusUnavailableError(f"bus file {path}: {error} ({name})")
