"""The spool as the sensor uses it: a writer and the door to the uploader, one object for its loop.

Fits the sensor's ``EventSink``.
"""

import os
from pathlib import Path

from microedr_agent.config import AgentConfig
from microedr_agent.errors import SpoolError
from microedr_agent.sensor.own_events import LossReport
from microedr_agent.spool.accounts import Loss
from microedr_agent.spool.directory import prepare_directory
from microedr_agent.spool.door import SpoolDoor
from microedr_agent.spool.writer import SpoolStatistics, SpoolWriter

_MIB = 1024 * 1024


def open_sink(config: AgentConfig, *, collector: str) -> "SpoolSink":
    """Recover the spool and listen for the uploader. Call it while still root, if root at all.

    The spool's directory becomes this process's working directory, for good: that is how an unprivileged
    user reaches it wherever it lies.

    Args:
        config: Where and how large.
        collector: What the backend is told collects here: "ebpf", or "" when nothing does.

    Raises:
        SpoolLockedError: Another sensor runs.
        SpoolError: The directory cannot be used.
        IpcError: The socket cannot be made.
    """
    directory = prepare_directory(config)
    try:
        os.chdir(directory)
    except OSError as error:
        raise SpoolError(f"spool.dir: {directory}: {error.strerror}") from error
    writer = SpoolWriter.open(Path(), config.spool.max_mb * _MIB)
    try:
        gid = config.run_as.gid if os.geteuid() == 0 else None
        uploader_uid = config.run_as.uploader_uid if os.geteuid() == 0 else os.geteuid()
        door = SpoolDoor(config.sensor_socket, writer, uploader_uid=uploader_uid, gid=gid, collector=collector)
    except BaseException:
        writer.close()
        raise
    return SpoolSink(writer, door)


class SpoolSink:
    """Takes frames, keeps them, passes promises on."""

    def __init__(self, writer: SpoolWriter, door: SpoolDoor) -> None:
        self._writer = writer
        self._door = door

    @property
    def epoch_id(self) -> str:
        """Of the events appended here."""
        return self._writer.epoch_id

    @property
    def problems(self) -> tuple[str, ...]:
        """Damage that was found at the start, for the log."""
        return self._writer.problems

    @property
    def next_seq(self) -> int:
        """Sequence of the next event to be appended."""
        return self._writer.next_seq

    def filenos(self) -> tuple[int, ...]:
        """Readable when ``serve`` has something to do."""
        return self._door.filenos()

    def append(self, raw: bytes, count: int) -> None:
        """Take a length-prefixed batch of ``count`` events, numbered from ``next_seq`` on."""
        self._writer.append(raw, count)

    def commit(self) -> None:
        """Make what was appended durable and promise it to the uploader. Blocks for the disk."""
        self._door.offer(self._writer.commit())
        self._door.poll()

    def serve(self) -> None:
        """Take what the uploader says. Never blocks."""
        self._door.poll()

    def take_losses(self) -> tuple[LossReport, ...]:
        """What was given up and nobody was told of yet."""
        return tuple(_report(loss) for loss in self._writer.take_losses())

    def losses_reported(self, through_seq: int) -> None:
        """Those taken so far are told in events up to ``through_seq``."""
        self._writer.losses_reported(through_seq)

    def statistics(self) -> SpoolStatistics:
        """Of this moment."""
        return self._writer.statistics()

    def close(self) -> None:
        """Commit, promise that too, and give everything back."""
        self._door.offer(self._writer.close())
        self._door.poll()
        self._door.close()


def _report(loss: Loss) -> LossReport:
    return LossReport(
        reason=loss.reason,
        count=loss.count,
        detail=loss.detail,
        lane=loss.key.lane,
        epoch_id=str(loss.key.epoch),
        from_seq=loss.first_seq,
        to_seq=loss.last_seq,
    )
