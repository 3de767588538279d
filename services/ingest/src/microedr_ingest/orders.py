"""Signed actions that wait for their host: a bounded memory of what topic actions said lately.

Pure: no bus, no streams, no clock. The signature is not looked at here. Only the agent's verdict counts, and it
gets exactly the bytes that were signed.
"""

from collections import OrderedDict
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from microedr.limits import MAX_ACTION_BYTES
from microedr.v1.action_pb2 import Action, ActionState, ActionUpdate, SignedAction

MAX_ORDERS = 10_000
"""Of all hosts. The actioner's brake lets far fewer through in five minutes."""

MAX_ORDERS_PER_HOST = 64

MAX_ANSWERED = 50_000
"""Action ids whose result is known: a repeated result is not published again."""

_FINAL = frozenset(
    {
        ActionState.ACTION_STATE_REFUSED,
        ActionState.ACTION_STATE_EXPIRED,
        ActionState.ACTION_STATE_EXECUTED,
        ActionState.ACTION_STATE_FAILED,
        ActionState.ACTION_STATE_OBSERVED,
        ActionState.ACTION_STATE_REVERTED,
        ActionState.ACTION_STATE_UNKNOWN,
    }
)

HostKey = tuple[str, str]
"""Tenant and host."""


class NotRelayableError(Exception):
    """This order can never be relayed. ``reason`` is a word of the metric's closed set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Order:
    """A signed action and where it belongs."""

    action_id: str
    tenant_id: str
    host_id: str
    session_nonce: bytes
    expires_unix_ns: int
    signed: SignedAction
    update: ActionUpdate

    @property
    def host(self) -> HostKey:
        """Whose it is."""
        return (self.tenant_id, self.host_id)


def read_order(update: ActionUpdate) -> Order:
    """The order in a SIGNED update; what is signed decides, not what stands around it.

    Raises:
        NotRelayableError: ``malformed`` or ``wrong_host``.
    """
    if not 0 < len(update.signed.action) <= MAX_ACTION_BYTES:
        raise NotRelayableError("malformed")
    try:
        action = Action.FromString(update.signed.action)
    except DecodeError as error:
        raise NotRelayableError("malformed") from error
    if not action.action_id or action.action_id != update.action_id:
        raise NotRelayableError("malformed")
    if (action.tenant_id, action.host_id) != (update.tenant_id, update.host_id):
        raise NotRelayableError("wrong_host")
    return Order(
        action.action_id,
        action.tenant_id,
        action.host_id,
        action.session_nonce,
        action.expires_unix_ns,
        update.signed,
        update,
    )


class OrderBook:
    """Orders without a result, per host, and the results that are known."""

    def __init__(self) -> None:
        self._orders: OrderedDict[tuple[HostKey, str], Order] = OrderedDict()
        self._answered: OrderedDict[tuple[HostKey, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._orders)

    def add(self, order: Order, now_unix_ns: int) -> None:
        """Keep ``order`` until it is answered or expires.

        Raises:
            NotRelayableError: ``expired``, ``duplicate`` or ``full``.
        """
        self.expire(now_unix_ns)
        key = (order.host, order.action_id)
        if order.expires_unix_ns <= now_unix_ns:
            raise NotRelayableError("expired")
        known = self._orders.get(key)
        if key in self._answered or (known is not None and known.signed == order.signed):
            raise NotRelayableError("duplicate")
        of_host = sum(1 for host, _ in self._orders if host == order.host)
        if of_host >= MAX_ORDERS_PER_HOST or len(self._orders) >= MAX_ORDERS:
            raise NotRelayableError("full")
        self._orders[key] = order

    def waiting(self, host: HostKey, session_nonce: bytes, now_unix_ns: int) -> list[Order]:
        """Orders for this run of this host's responder, oldest first."""
        self.expire(now_unix_ns)
        return [order for order in self._orders.values() if order.host == host and order.session_nonce == session_nonce]

    def find(self, host: HostKey, action_id: str) -> Order | None:
        """The order with this id of this host, while it waits for its result."""
        return self._orders.get((host, action_id))

    def answer(self, host: HostKey, action_id: str, state: ActionState.ValueType) -> bool:
        """A result is known. False: it was known before, or says nothing final."""
        if state not in _FINAL:
            return False
        self._orders.pop((host, action_id), None)
        if (host, action_id) in self._answered:
            return False
        self._answered[host, action_id] = None
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        return True

    def expire(self, now_unix_ns: int) -> None:
        """Forget what nobody may carry out any more."""
        for key in [key for key, order in self._orders.items() if order.expires_unix_ns <= now_unix_ns]:
            del self._orders[key]
