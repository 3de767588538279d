"""The sink the sensor runs with: the spool's writer, and the door where the uploader learns what is durable."""

import os
from collections.abc import Sequence
from pathlib import Path

from microedr_agent.config import AgentConfig
from microedr_agent.errors import SpoolError
from microedr_agent.log import Log
from microedr_agent.sensor.own_events import LossReport
from microedr_agent.spool.directory import prepare_directory
from microedr_agent.spool.door import SpoolDoor
from microedr_agent.spool.writer import SpoolStatistics, SpoolWriter

_MIB = 1024 * 1024
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class SpoolSink:
    """An ``EventSink`` over a ``SpoolWriter`` and its ``SpoolDoor``."""

    def __init__(self, writer: SpoolWriter, door: SpoolDoor, log: Log) -> None:
        self._writer = writer
        self._door = door
        self._log = log
        self._told_trouble = ""

    @property
    def next_seq(self) -> int:
        """As the protocol says."""
        return self._writer.next_seq

    def append(self, raw: bytes, count: int) -> None:
        """As the protocol says."""
        self._writer.append(raw, count)

    def commit(self) -> None:
        """As the protocol says."""
        self._door.offer(self._writer.commit())
        self._door.poll()
        if self._writer.trouble != self._told_trouble:
            self._tell_trouble(self._writer.trouble)

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
        """As the protocol says; the uploader gets the last promises if it takes them at once."""
        self._door.offer(self._writer.close())
        self._door.poll()
        self._door.close()

    def _tell_trouble(self, trouble: str) -> None:
        """Once when the disk stops taking what is written, once when it takes it again."""
        unsynced_events = self._writer.statistics().unsynced_events
        if trouble:
            self._log.error("spool_unwritable", reason=trouble, unsynced_events=unsynced_events)
        else:
            self._log.warning("spool_writable_again", unsynced_events=unsynced_events)
        self._told_trouble = trouble


class Places:
    """The spool's and the run directory, held open since this process was root.

    What it makes there belongs to the user it has become by then, and the directories above need not be open to
    that user.

    Raises:
        SpoolError: One of them cannot be opened.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._spool_fd = _open_directory(prepare_directory(config), "spool.dir")
        self._run_fd = _open_directory(config.run_dir, "run_dir")

    def open_sink(self, collector: str, log: Log) -> SpoolSink:
        """Open the spool and listen; the spool becomes the working directory.

        Raises:
            SpoolLockedError: Another sensor writes this spool.
            SpoolError, IpcError: It cannot be used.
        """
        config = self._config
        os.fchdir(self._spool_fd)
        writer = SpoolWriter.open(Path(), config.spool.max_mb * _MIB)
        for problem in writer.problems:
            log.warning("spool_damaged", problem=problem)
        os.fchdir(self._run_fd)
        try:
            run_as = config.run_as
            door = SpoolDoor(
                Path(config.sensor_socket.name),
                writer,
                uploader_uid=run_as.uploader_uid,
                gid=run_as.gid if os.getgid() == run_as.gid else None,
                collector=collector,
            )
        finally:
            os.fchdir(self._spool_fd)
        return SpoolSink(writer, door, log)


def _open_directory(path: Path, name: str) -> int:
    try:
        return os.open(path, _OPEN_DIRECTORY)
    except OSError as error:
        raise SpoolError(f"{name}: {path}: {error.strerror}") from error
