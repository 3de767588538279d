"""Events that no sample stands behind: heartbeats and losses, and what the first event of a frame carries."""

from collections.abc import Sequence
from dataclasses import dataclass

from microedr_agent.sensor import fields as f
from microedr_agent.sensor.text import cut
from microedr_agent.sensor.wire import message, number, text, texts

RING_FULL = 1
DECODE_FAILED = 5
"""``LossReason`` of the contract."""

_MAX_TEXT_BYTES = 512
_MAX_TEXTS = 32


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host and the agent on it, as they stay while the sensor runs."""

    host_id: str
    hostname: str
    os_version: str
    kernel_version: str
    architecture: str
    boot_id: str
    agent_version: str
    collector: str
    """"ebpf" or "none"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Names and meanings are those of ``AgentHeartbeat`` in the contract."""

    phase: str
    collector: str
    blind_spots: Sequence[str]
    attach_failures: Sequence[str]
    spool_pending_events: int
    spool_bytes: int
    kernel_seen_total: int
    ring_dropped_total: int
    emitted_total: int
    acked_total: int
    evicted_total: int
    cpu_time_ns: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossReport:
    """Names and meanings are those of ``LossRecord`` in the contract."""

    reason: int
    count: int
    detail: str = ""
    lane: int = 0
    epoch_id: str = ""
    from_seq: int = 0
    to_seq: int = 0


def frame_head(facts: HostFacts) -> bytes:
    """Fields of the first event of a frame, which stand for all of it."""
    return b"".join(
        (
            text(f.HOST_ID, facts.host_id.encode()),
            text(f.HOSTNAME, _short(facts.hostname)),
            text(f.OS, b"linux"),
            message(
                f.HOST,
                text(f.H_HOST_ID, facts.host_id.encode()),
                text(f.H_HOSTNAME, _short(facts.hostname)),
                text(f.H_OS, b"linux"),
                text(f.H_OS_VERSION, _short(facts.os_version)),
                text(f.H_KERNEL, _short(facts.kernel_version)),
                text(f.H_ARCHITECTURE, _short(facts.architecture)),
                text(f.H_BOOT_ID, _short(facts.boot_id)),
            ),
            message(
                f.AGENT,
                text(f.A_VERSION, _short(facts.agent_version)),
                text(f.A_COLLECTOR, _short(facts.collector)),
            ),
        )
    )


def heartbeat(beat: Heartbeat) -> bytes:
    """The payload of a heartbeat."""
    return message(
        f.HEARTBEAT,
        number(f.B_PENDING, beat.spool_pending_events),
        number(f.B_SPOOL_BYTES, beat.spool_bytes),
        text(f.B_COLLECTOR, _short(beat.collector)),
        texts(f.B_BLIND_SPOTS, [_short(spot) for spot in beat.blind_spots[:_MAX_TEXTS]]),
        texts(f.B_ATTACH_FAILURES, [_short(failure) for failure in beat.attach_failures[:_MAX_TEXTS]]),
        number(f.B_KERNEL_SEEN, beat.kernel_seen_total),
        number(f.B_RING_DROPPED, beat.ring_dropped_total),
        number(f.B_EMITTED, beat.emitted_total),
        number(f.B_ACKED, beat.acked_total),
        number(f.B_EVICTED, beat.evicted_total),
        number(f.B_CPU_TIME_NS, beat.cpu_time_ns),
        number(f.B_RSS_BYTES, beat.rss_bytes),
        text(f.B_PHASE, beat.phase.encode()),
    )


def loss(report: LossReport) -> bytes:
    """The payload of a LossRecord."""
    return message(
        f.LOSS,
        number(f.L_LANE, report.lane),
        text(f.L_EPOCH_ID, report.epoch_id.encode()),
        number(f.L_FROM_SEQ, report.from_seq),
        number(f.L_TO_SEQ, report.to_seq),
        number(f.L_COUNT, report.count),
        number(f.L_REASON, report.reason),
        text(f.L_DETAIL, _short(report.detail)),
    )


def _short(value: str) -> bytes:
    return cut(value.encode("utf-8", "backslashreplace"), _MAX_TEXT_BYTES)
