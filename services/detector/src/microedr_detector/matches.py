"""A rule that fired, as the record that the correlator reads."""

import hashlib
from dataclasses import dataclass

from microedr import headers, ids
from microedr.v1.detection_pb2 import Match, RuleRef
from microedr.v1.event_pb2 import AgentEvent
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record
from microedr_chassis.errors import DeadLetterError
from microedr_chassis.highwater import Admission
from microedr_rules.model import RuleMatch


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the events of one record come from; from its headers, which ingest took from the certificate."""

    tenant_id: str
    host_id: str
    epoch_id: str
    lane: int
    trace_id: str

    @classmethod
    def of(cls, record: ConsumedRecord, admission: Admission) -> "Origin":
        """The origin of ``record``.

        Raises:
            DeadLetterError: ``bad_headers``.
        """
        try:
            tenant_id = record.headers[headers.TENANT].decode("ascii")
            trace_id = record.headers.get(headers.TRACE, b"").decode("ascii")
        except (KeyError, UnicodeDecodeError) as error:
            raise DeadLetterError("bad_headers", f"{type(error).__name__}: {error}") from error
        return cls(tenant_id, admission.host_id, admission.epoch_id, admission.lane, trace_id)


def complete(event: AgentEvent, first: AgentEvent, origin: Origin, seqno: int) -> None:
    """Fill in what an event carries once it leaves its batch: names of the host, its id, its hash.

    Args:
        event: Changed in place.
        first: The batch's first event, whose host and agent blocks cover the rest.
        origin: Of the batch.
        seqno: The event's place in the host's sequence.
    """
    event.host_id = origin.host_id
    event.hostname = event.hostname or first.hostname or first.host.hostname
    event.os = event.os or first.os or first.host.os
    event.agent_id = event.agent_id or first.agent_id
    event.event_id = ids.event_id(origin.host_id, origin.epoch_id, origin.lane, seqno)
    event.content_hash = b""
    event.content_hash = hashlib.sha256(event.SerializeToString(deterministic=True)).digest()


def match_record(  # noqa: PLR0913 - the message's parts
    found: RuleMatch, rule: RuleRef, event: AgentEvent, origin: Origin, *, ruleset_hash: str, now_unix_ns: int
) -> Record:
    """The record for a rule that fired on ``event``, which is complete."""
    match = Match(
        match_id=ids.match_id(found.rule.rule_id, event.event_id),
        tenant_id=origin.tenant_id,
        host_id=origin.host_id,
        rule=rule,
        event=event,
        epoch_id=origin.epoch_id,
        lane=origin.lane,
        trace_id=origin.trace_id,
        matched_unix_ns=now_unix_ns,
        matched_fields=found.matched_fields,
        ruleset_hash=ruleset_hash,
    )
    return Record(
        topic=topics.MATCHES,
        key=origin.host_id.encode(),
        value=match.SerializeToString(),
        headers={
            headers.TENANT: origin.tenant_id.encode(),
            headers.HOST: origin.host_id.encode(),
            headers.TRACE: origin.trace_id.encode(),
        },
    )
