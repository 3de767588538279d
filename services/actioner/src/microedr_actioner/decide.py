"""The actioner's flow, one record at a time: alerts and requests in, decisions and signed orders out.

* alert → proposed by the rule → APPROVED or REFUSED
* request → APPROVED or REFUSED
* APPROVED → SIGNED once the host is connected, or EXPIRED
* SIGNED and never answered → EXPIRED

Nothing is signed before the log was read to its end, and every step is published in order: whoever
owns a partition next reads the same. What is decided is in ``policy``, ``brake`` and ``state``.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

from microedr import headers
from microedr.ids import is_valid_name
from microedr.v1.action_pb2 import ActionState, ActionUpdate
from microedr.v1.detection_pb2 import Alert
from microedr.v1.transport_pb2 import HostSession
from microedr_actioner.brake import Brake, Taken
from microedr_actioner.catch_up import CatchUp
from microedr_actioner.policy import Arming, Verdict, objection, propose
from microedr_actioner.settings import ActionerSettings
from microedr_actioner.signer import Signer
from microedr_actioner.state import HISTORY_S, HostKey, PartitionState
from microedr_actioner.updates import decided, follow, order_of, record_of
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus, ConsumedRecord, Record, Subscription, TopicPartition
from microedr_chassis.errors import DeadLetterError, RetryLaterError
from microedr_chassis.metrics import Metrics

_log = structlog.get_logger()

TOPICS = (topics.ALERTS, topics.ACTIONS, topics.ACTION_RESULTS, topics.HOSTS)
_REPLAYED = frozenset({topics.ACTIONS, topics.ACTION_RESULTS, topics.HOSTS})
ANSWER_GRACE_S = 30.0
"""After an order expired: time for the answer to travel."""

_FORGET_INTERVAL_S = 60.0
_NS_PER_S = 1_000_000_000


class Decider:
    """The consumer. One per process; state is kept apart by partition."""

    def __init__(  # noqa: PLR0913 - what it decides with
        self,
        settings: ActionerSettings,
        *,
        bus: Bus,
        signer: Signer,
        brake: Brake,
        brake_ready: Callable[[], bool],
        metrics: Metrics,
        clock_unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._arming = Arming(settings.auto, frozenset(settings.auto_rules), settings.auto_max_event_age_s)
        self._bus = bus
        self._signer = signer
        self._brake = brake
        self._brake_ready = brake_ready
        self._metrics = metrics
        self._clock_unix_ns = clock_unix_ns
        self._states: dict[int, PartitionState] = {}
        self._catch_up = CatchUp()
        self._outbox: deque[tuple[int, Record]] = deque()
        self._forget_due_unix_ns = 0

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Read again what the state is made of."""
        for source in partitions:
            self._states.setdefault(source.partition, PartitionState(source.partition))
        since_unix_ms = self._clock_unix_ns() // 1_000_000 - int(HISTORY_S * 1000)
        replayed = [source for source in partitions if source.topic in _REPLAYED]
        await self._catch_up.begin(subscription, replayed, since_unix_ms=since_unix_ms)

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Forget the hosts of these partitions, and what was to be published for them: their next owner decides."""
        self._catch_up.drop(partitions)
        gone = {source.partition for source in partitions}
        for number in gone:
            self._states.pop(number, None)
        self._outbox = deque(entry for entry in self._outbox if entry[0] not in gone)

    async def consume(self, record: ConsumedRecord) -> None:
        """Take one record; effects wait for ``flush``."""
        state = self._states.setdefault(record.partition, PartitionState(record.partition))
        host = _host_of(record)
        match record.topic:
            case topics.HOSTS:
                state.apply_session(host, _parse(HostSession, record))
            case topics.ALERTS:
                self._consume_alert(state, host, _parse(Alert, record))
            case topics.ACTIONS:
                self._consume_update(state, host, _parse(ActionUpdate, record))
            case topics.ACTION_RESULTS:
                state.apply_update(host, _parse(ActionUpdate, record))
        self._catch_up.passed(record)

    async def flush(self) -> None:
        """Sign what can be signed, expire what waited too long, and publish."""
        for number, state in self._states.items():
            if self._catch_up.is_done(number):
                self._decide_requests(state)
                self._sign_waiting(state)
                self._expire_unanswered(state)
        self._forget()
        while self._outbox:
            entry = self._outbox[0]
            await self._bus.publish(entry[1])
            if self._outbox and self._outbox[0] is entry:
                self._outbox.popleft()

    def committable(self, consumed: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """All of it: being called on every turn is what matters here."""
        return consumed

    def _consume_alert(self, state: PartitionState, host: HostKey, alert: Alert) -> None:
        if (alert.tenant_id, alert.host_id) != host:
            raise DeadLetterError("bad_headers", "the alert and its headers name different hosts")
        if not self._brake_ready():
            raise RetryLaterError("the brake has not read yet what rules did before")
        now_unix_ns = self._clock_unix_ns()
        for proposal in propose(alert, self._arming, now_unix_ns=now_unix_ns):
            if state.is_known(proposal.action_id):
                continue
            refused: str = objection(proposal.type, proposal.process) or ""
            if not refused and not self._admit(alert, proposal.action_id, now_unix_ns):
                refused = Verdict.BRAKE
            self._publish(state, decided(alert, proposal, refused=refused, now_unix_ns=now_unix_ns))

    def _admit(self, alert: Alert, action_id: str, now_unix_ns: int) -> bool:
        rule_id = alert.rule.rule_id
        was_armed = rule_id not in self._brake.disarmed
        action = Taken(action_id, (alert.tenant_id, alert.host_id), alert.entities.exe, now_unix_ns)
        admitted = self._brake.admit(rule_id, action)
        if was_armed and not admitted:
            _log.warning("rule_disarmed", rule_id=rule_id, reason="it acts too widely; a person must re-arm it")
        self._metrics.gauge(catalogue.RULES_DISARMED).set(len(self._brake.disarmed))
        return admitted

    def _consume_update(self, state: PartitionState, host: HostKey, update: ActionUpdate) -> None:
        if (update.tenant_id, update.host_id) != host:
            raise DeadLetterError("bad_headers", "the update and its headers name different hosts")
        if update.state == ActionState.ACTION_STATE_REQUESTED:
            # During a replay its answer may stand further on, so it is decided when the log was read to its end.
            state.add_request(update)
        else:
            state.apply_update(host, update)

    def _decide_requests(self, state: PartitionState) -> None:
        now_unix_ns = self._clock_unix_ns()
        for request in state.take_requests():
            refused = objection(request.type, request.process)
            if refused is not None:
                step, reason = ActionState.ACTION_STATE_REFUSED, str(refused)
            elif now_unix_ns - request.at_unix_ns > self._settings.wait_s * _NS_PER_S:
                step, reason = ActionState.ACTION_STATE_EXPIRED, str(Verdict.TOO_OLD)
            else:
                step, reason = ActionState.ACTION_STATE_APPROVED, ""
            # One principal with the right to ask is enough for now: the one who asks approves.
            self._publish(state, follow(request, step, now_unix_ns=now_unix_ns, actor=request.actor, reason=reason))

    def _sign_waiting(self, state: PartitionState) -> None:
        now_unix_ns = self._clock_unix_ns()
        for approved in state.waiting():
            host = (approved.tenant_id, approved.host_id)
            nonce = state.session_nonce(host, now_unix_ns=now_unix_ns)
            if now_unix_ns - approved.at_unix_ns > self._settings.wait_s * _NS_PER_S:
                reason = nonce if isinstance(nonce, Verdict) else Verdict.TOO_OLD
                expired = ActionState.ACTION_STATE_EXPIRED
                self._publish(state, follow(approved, expired, now_unix_ns=now_unix_ns, reason=reason))
            elif not isinstance(nonce, Verdict):
                self._sign(state, approved, nonce, now_unix_ns)

    def _sign(self, state: PartitionState, approved: ActionUpdate, nonce: bytes, now_unix_ns: int) -> None:
        host = (approved.tenant_id, approved.host_id)
        order = order_of(
            approved,
            nonce=nonce,
            sequence=state.next_sequence(host, nonce, now_unix_ns=now_unix_ns),
            now_unix_ns=now_unix_ns,
            skew_ns=int(self._settings.clock_skew_s * _NS_PER_S),
            life_ns=int(self._settings.order_life_s * _NS_PER_S),
        )
        step = ActionState.ACTION_STATE_SIGNED
        self._publish(state, follow(approved, step, now_unix_ns=now_unix_ns, signed=self._signer.sign(order)))

    def _expire_unanswered(self, state: PartitionState) -> None:
        now_unix_ns = self._clock_unix_ns()
        for signed in state.unanswered(before_unix_ns=now_unix_ns - int(ANSWER_GRACE_S * _NS_PER_S)):
            step, reason = ActionState.ACTION_STATE_EXPIRED, Verdict.NOT_ANSWERED
            self._publish(state, follow(signed, step, now_unix_ns=now_unix_ns, reason=reason))

    def _publish(self, state: PartitionState, update: ActionUpdate) -> None:
        # Known at once, so that nothing is decided twice before it comes back from the bus.
        state.apply_update((update.tenant_id, update.host_id), update)
        self._outbox.append((state.number, record_of(update)))
        word = ActionState.Name(update.state).removeprefix("ACTION_STATE_").lower()
        self._metrics.counter(catalogue.ACTION_UPDATES, state=word).inc()
        _log.info(
            f"action_{word}",
            action_id=update.action_id,
            host_id=update.host_id,
            rule_id=update.rule_id,
            alert_id=update.alert_id,
            actor=update.actor,
            reason=update.reason,
        )

    def _forget(self) -> None:
        now_unix_ns = self._clock_unix_ns()
        if now_unix_ns >= self._forget_due_unix_ns and self._catch_up.is_done():
            self._forget_due_unix_ns = now_unix_ns + int(_FORGET_INTERVAL_S * _NS_PER_S)
            for state in self._states.values():
                state.forget_old(now_unix_ns)


def _host_of(record: ConsumedRecord) -> HostKey:
    try:
        host = (record.headers[headers.TENANT].decode("ascii"), record.headers[headers.HOST].decode("ascii"))
    except (KeyError, UnicodeDecodeError) as error:
        raise DeadLetterError("bad_headers", "tenant or host is missing") from error
    if not all(is_valid_name(name) for name in host):
        raise DeadLetterError("bad_headers", "tenant or host is no valid name")
    return host


MessageT = TypeVar("MessageT", bound=Message)


def _parse(kind: type[MessageT], record: ConsumedRecord) -> MessageT:
    try:
        return kind.FromString(record.value)
    except DecodeError as error:
        raise DeadLetterError("undecodable", f"not a {kind.__name__}: {error}") from error
