"""Carries signed actions from the bus down to the one stream of their host, and results up to the bus.

Every ingest instance reads all of topics actions and action-results from five minutes back (no older order
is valid), so that a host may connect to any of them. Delivery is at least once: an order is sent again when its host
connects anew and no result is known. The responder answers a repeated order with the result it has.
"""

import asyncio
import time

import structlog
from google.protobuf.message import DecodeError

from microedr import headers
from microedr.ids import is_valid_name
from microedr.limits import MAX_ACTION_LIFE_S
from microedr.v1.action_pb2 import ActionResult, ActionState, ActionUpdate
from microedr_chassis import catalogue
from microedr_chassis.backoff import Backoff
from microedr_chassis.bus.api import Bus, ConsumedRecord, Record, Subscription
from microedr_chassis.bus.topics import ACTION_RESULTS, ACTIONS
from microedr_chassis.errors import BusUnavailableError
from microedr_chassis.identity import Peer
from microedr_chassis.lifecycle import Progress
from microedr_chassis.metrics import Metrics
from microedr_chassis.tracing import new_trace_id
from microedr_ingest.orders import NotRelayableError, Order, OrderBook, read_order
from microedr_ingest.outlet import Outlet
from microedr_ingest.registry import StreamRegistry
from microedr_ingest.stream import AgentStream

_log = structlog.get_logger()

_FETCH_TIMEOUT_S = 0.5
_REST_S = 0.01
"""After an empty fetch. A tail whose bus was closed answers at once, and must not keep the loop to itself."""

_MAX_WORD_CHARS = 64
_MAX_DETAIL_CHARS = 1024

_RESULT_STATES = frozenset(
    {
        ActionState.ACTION_STATE_REFUSED,
        ActionState.ACTION_STATE_EXPIRED,
        ActionState.ACTION_STATE_EXECUTED,
        ActionState.ACTION_STATE_FAILED,
        ActionState.ACTION_STATE_UNKNOWN,
    }
)


class Relay:
    """The one place where actions pass through ingest."""

    def __init__(
        self, bus: Bus, *, outlet: Outlet, streams: StreamRegistry, metrics: Metrics, progress: Progress
    ) -> None:
        self._bus = bus
        self._outlet = outlet
        self._streams = streams
        self._metrics = metrics
        self._progress = progress
        self._book = OrderBook()

    async def run(self) -> None:
        """Follow the topics until cancelled; while the bus is away, wait for it."""
        backoff = Backoff(first_s=0.2, most_s=5.0)
        while True:
            try:
                since_unix_ms = (time.time_ns() // 1_000_000) - MAX_ACTION_LIFE_S * 1000
                tail = await self._bus.tail((ACTIONS, ACTION_RESULTS), since_unix_ms=since_unix_ms)
                try:
                    await self._follow(tail, backoff)
                finally:
                    await tail.close()
            except BusUnavailableError as error:
                self._progress.degrade(f"actions cannot be read: {error}")
                await asyncio.sleep(backoff.next_s())

    def attach(self, stream: AgentStream) -> None:
        """A host has connected: send it what waits for it."""
        host = (stream.peer.tenant_id, stream.peer.host_id)
        for order in self._book.waiting(host, stream.session_nonce, time.time_ns()):
            self._send(stream, order)

    def report(self, peer: Peer, result: ActionResult) -> None:
        """An agent tells what it did. Tenant and host are those of its certificate, whatever it says."""
        if result.state not in _RESULT_STATES or not is_valid_name(result.action_id):
            self._drop("malformed", result.action_id[:_MAX_WORD_CHARS])
            return
        host = (peer.tenant_id, peer.host_id)
        order = self._book.find(host, result.action_id)
        if not self._book.answer(host, result.action_id, result.state):
            self._drop("duplicate", result.action_id)
            return
        update = ActionUpdate(
            action_id=result.action_id,
            tenant_id=peer.tenant_id,
            host_id=peer.host_id,
            state=result.state,
            at_unix_ns=result.finished_unix_ns or time.time_ns(),
            actor="agent",
            reason=result.reason[:_MAX_WORD_CHARS],
            detail=result.detail[:_MAX_DETAIL_CHARS],
        )
        self._publish(update, order)

    async def _follow(self, tail: Subscription, backoff: Backoff) -> None:
        while True:
            records = await tail.fetch(max_records=256, timeout_s=_FETCH_TIMEOUT_S)
            self._progress.tick()
            backoff.reset()
            for record in records:
                self._take(record)
            if not records:
                await asyncio.sleep(_REST_S)

    def _take(self, record: ConsumedRecord) -> None:
        try:
            update = ActionUpdate.FromString(record.value)
        except DecodeError:
            self._drop("malformed", "")
            return
        owner = (record.headers.get(headers.TENANT), record.headers.get(headers.HOST))
        if owner != (update.tenant_id.encode(), update.host_id.encode()):
            self._drop("wrong_host", update.action_id)
            return
        host = (update.tenant_id, update.host_id)
        if record.topic == ACTION_RESULTS:
            self._book.answer(host, update.action_id, update.state)
        elif update.state == ActionState.ACTION_STATE_SIGNED:
            self._admit(update)

    def _admit(self, update: ActionUpdate) -> None:
        try:
            order = read_order(update)
            self._book.add(order, time.time_ns())
        except NotRelayableError as error:
            self._drop(error.reason, update.action_id)
            return
        stream = self._streams.of(order.host)
        if stream is not None and stream.session_nonce == order.session_nonce:
            self._send(stream, order)

    def _send(self, stream: AgentStream, order: Order) -> None:
        if not stream.relay(order.signed):
            return  # it stays in the book until the host connects anew
        self._metrics.counter(catalogue.ACTIONS_RELAYED).inc()
        update = ActionUpdate(
            action_id=order.action_id,
            tenant_id=order.tenant_id,
            host_id=order.host_id,
            state=ActionState.ACTION_STATE_RELAYED,
            at_unix_ns=time.time_ns(),
            actor="service:ingest",
        )
        self._publish(update, order)

    def _publish(self, update: ActionUpdate, order: Order | None) -> None:
        if order is not None:
            update.type = order.update.type
            update.process.CopyFrom(order.update.process)
            update.alert_id = order.update.alert_id
            update.rule_id = order.update.rule_id
        update.trace_id = (order.update.trace_id if order is not None else "") or new_trace_id()
        state = ActionState.Name(update.state).removeprefix("ACTION_STATE_").lower()
        self._metrics.counter(catalogue.ACTION_UPDATES, state=state).inc()
        _log.info(
            "action_updated", action_id=update.action_id, host_id=update.host_id, state=state, reason=update.reason
        )
        self._outlet.offer(
            Record(
                ACTION_RESULTS,
                update.host_id.encode(),
                update.SerializeToString(),
                {
                    headers.TENANT: update.tenant_id.encode(),
                    headers.HOST: update.host_id.encode(),
                    headers.TRACE: update.trace_id.encode(),
                },
            )
        )

    def _drop(self, reason: str, action_id: str) -> None:
        self._metrics.counter(catalogue.ACTIONS_DROPPED, reason=reason).inc()
        _log.warning("action_dropped", reason=reason, action_id=action_id)
