"""What the actioner knows of the hosts of one partition: sessions, actions under way, sequences.

All of it is rebuilt from the topics, so nothing is stored. Pure; bounded by age and by count.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from microedr.v1.action_pb2 import Action, ActionState, ActionUpdate
from microedr.v1.transport_pb2 import HostSession, SessionState
from microedr_actioner.policy import Verdict

HISTORY_S = 900.0
"""What is older cannot matter: no alert or request of that age is acted on, no order lives so long."""

SESSION_STALE_S = 300.0
"""Hosts are told of once a minute while they are connected."""

MAX_ACTIONS = 50_000
MAX_HOSTS = 50_000
NONCE_BYTES = 16
_NS_PER_S = 1_000_000_000

HostKey = tuple[str, str]
"""Tenant and host."""

_ANSWERS = frozenset(
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


@dataclass(slots=True)
class _Known:
    at_unix_ns: int
    approved: ActionUpdate | None = None
    """Set while it waits to be signed."""
    signed: ActionUpdate | None = None
    """Set while an answer is awaited."""
    expires_unix_ns: int = 0
    """Of the signed order."""
    done: bool = False


@dataclass(slots=True)
class PartitionState:
    """The hosts of one partition."""

    number: int
    _requests: dict[str, ActionUpdate] = field(default_factory=dict)
    _sessions: dict[HostKey, HostSession] = field(default_factory=dict)
    _actions: dict[str, _Known] = field(default_factory=dict)
    _sequences: dict[tuple[HostKey, bytes], int] = field(default_factory=dict)

    def is_known(self, action_id: str) -> bool:
        """Whether this action was decided before."""
        return action_id in self._actions

    def apply_session(self, host: HostKey, session: HostSession) -> None:
        """The newest word on a host."""
        known = self._sessions.pop(host, None)
        newest = session if known is None or session.at_unix_ns >= known.at_unix_ns else known
        self._sessions[host] = newest
        if len(self._sessions) > MAX_HOSTS:
            del self._sessions[next(iter(self._sessions))]

    def apply_update(self, host: HostKey, update: ActionUpdate) -> None:
        """A step in the life of an action, whoever took it."""
        if update.state == ActionState.ACTION_STATE_REQUESTED:
            return
        known = self._actions.setdefault(update.action_id, _Known(update.at_unix_ns))
        match update.state:
            case ActionState.ACTION_STATE_APPROVED if known.signed is None and not known.done:
                known.approved = update
            case ActionState.ACTION_STATE_SIGNED:
                self._apply_signed(host, known, update)
            case state if state in _ANSWERS:
                known.approved = known.signed = None
                known.done = True
        if len(self._actions) > MAX_ACTIONS:
            del self._actions[next(iter(self._actions))]

    def add_request(self, request: ActionUpdate) -> None:
        """Somebody asks for an action; decided by ``take_requests``' caller."""
        if len(self._requests) < MAX_ACTIONS:
            self._requests[request.action_id] = request

    def take_requests(self) -> Iterator[ActionUpdate]:
        """Those that were not decided yet, oldest first; they are gone afterwards."""
        requests, self._requests = self._requests, {}
        return (request for request in requests.values() if not self.is_known(request.action_id))

    def waiting(self) -> Iterator[ActionUpdate]:
        """Approved and not signed, oldest first."""
        return iter([known.approved for known in self._actions.values() if known.approved is not None])

    def unanswered(self, *, before_unix_ns: int) -> Iterator[ActionUpdate]:
        """Signed orders that expired before this moment without an answer."""
        return iter(
            [
                known.signed
                for known in self._actions.values()
                if known.signed is not None and known.expires_unix_ns < before_unix_ns
            ]
        )

    def session_nonce(self, host: HostKey, *, now_unix_ns: int) -> bytes | Verdict:
        """What an order to ``host`` must be bound to now; or why there is nothing."""
        session = self._sessions.get(host)
        if (
            session is None
            or session.state != SessionState.SESSION_STATE_CONNECTED
            or now_unix_ns - session.at_unix_ns > SESSION_STALE_S * _NS_PER_S
        ):
            return Verdict.HOST_OFFLINE
        if len(session.session_nonce) != NONCE_BYTES:
            return Verdict.NO_RESPONDER
        return session.session_nonce

    def next_sequence(self, host: HostKey, nonce: bytes, *, now_unix_ns: int) -> int:
        """More than any order of this session had.

        Microseconds of the clock, so that it grows also when what came before was forgotten.
        """
        return max(self._sequences.get((host, nonce), 0) + 1, now_unix_ns // 1000)

    def forget_old(self, now_unix_ns: int) -> None:
        """Drop what is past ``HISTORY_S``, and sequences of sessions that are gone."""
        oldest_unix_ns = now_unix_ns - int(HISTORY_S * _NS_PER_S)
        for action_id in [key for key, known in self._actions.items() if known.at_unix_ns < oldest_unix_ns]:
            del self._actions[action_id]
        for host in [key for key, session in self._sessions.items() if session.at_unix_ns < oldest_unix_ns]:
            del self._sessions[host]
        live = {(host, session.session_nonce) for host, session in self._sessions.items()}
        for key in [key for key in self._sequences if key not in live]:
            del self._sequences[key]

    def _apply_signed(self, host: HostKey, known: _Known, update: ActionUpdate) -> None:
        try:
            order = Action.FromString(update.signed.action)
        except DecodeError:
            return
        key = (host, order.session_nonce)
        self._sequences[key] = max(self._sequences.get(key, 0), order.sequence)
        known.approved = None
        if not known.done:
            known.signed, known.expires_unix_ns = update, order.expires_unix_ns
