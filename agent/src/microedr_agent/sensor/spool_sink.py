"""The sink the sensor runs with: the spool's writer, and the door where the uploader learns what is durable."""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from microedr_agent.config import AgentConfig
from microedr_agent.errors import SpoolError
from microedr_agent.log import Log
from microedr_agent.sensor.own_events import LossReport
from microedr_agent.spool.writer import SpoolStatistics, SpoolWriter

_DIRECTORY_MODE = 0o750
_ROOT = 0
_MIB = 1024 * 1024


class SpoolSink:
    """An ``EventSink`` over a ``SpoolWriter``."""

    def __init__(self, writer: SpoolWriter) -> None:
        self._writer = writer

    @property
    def next_seq(self) -> int:
        """As the protocol says."""
        return self._writer.next_seq

    def append(self, raw: bytes, count: int) -> None:
        """As the protocol says."""
        self._writer.append(raw, count)

    def commit(self) -> None:
        """As the protocol says."""
        self._writer.commit()

    def serve(self) -> None:
        """As the protocol says."""

    def take_losses(self) -> Sequence[LossReport]:
        """As the protocol says."""
        return [
            LossReport(
                reason=loss.reason,
                count=loss.count,
                detail=loss.detail,
                lane=loss.key.lane,
                epoch_id=str(loss.key.epoch),
                from_seq=loss.first_seq,
                to_seq=loss.last_seq,
            )
            for loss in self._writer.take_losses()
        ]

    def losses_reported(self, through_seq: int) -> None:
        """As the protocol says."""
        self._writer.losses_reported(through_seq)

    def statistics(self) -> SpoolStatistics:
        """As the protocol says."""
        return self._writer.statistics()

    def close(self) -> None:
        """As the protocol says."""
        self._writer.close()


def prepare_spool_dir(config: AgentConfig) -> None:
    """Make the spool's directory, and make it and its files the sensor's own, while this process may.

    Raises:
        SpoolError: It cannot be.
    """
    path = config.spool.dir
    try:
        path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        if os.geteuid() == _ROOT:
            _give(path, config.run_as.sensor_uid, config.run_as.gid)
    except OSError as error:
        raise SpoolError(f"spool.dir: {path}: {error.strerror}") from error


def open_spool_sink(config: AgentConfig, collector: str, log: Log) -> SpoolSink:
    """Open the spool and the door; to be called as the user the sensor runs as.

    Raises:
        SpoolLockedError: Another sensor writes this spool.
        SpoolError: It cannot be used.
    """
    writer = SpoolWriter.open(config.spool.dir, config.spool.max_mb * _MIB)
    for problem in writer.problems:
        log.warning("spool_damaged", problem=problem)
    return SpoolSink(writer)


def _give(directory: Path, uid: int, gid: int) -> None:
    """Hand the directory and the segments in it to the sensor's user.

    Its owner may have put anything there, so only plain files with this one name are given: neither what a
    symbolic link points to nor what a hard link shares.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, _DIRECTORY_MODE)
        for entry in directory.iterdir():
            with contextlib.suppress(OSError):
                _give_file(entry.name, fd, uid, gid)
    finally:
        os.close(fd)


def _give_file(name: str, directory_fd: int, uid: int, gid: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchown(fd, uid, gid)
    finally:
        os.close(fd)
