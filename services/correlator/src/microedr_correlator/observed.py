"""Joins kills with exits: an action is OBSERVED when telemetry shows the end of the process it named.

What the agent says it did and what the window saw come in any order, and who the target was may stand in a
third record. Each is told to ``KillWatch``; what follows from them is taken with ``drain``.
A host can only speak of itself: its results and exits count for its own actions, whatever ids they name.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from microedr.ids import event_id
from microedr.v1.action_pb2 import (
    ACTION_STATE_EXECUTED,
    ACTION_STATE_OBSERVED,
    ACTION_STATE_SIGNED,
    ACTION_TYPE_KILL_PROCESS,
    ActionUpdate,
)
from microedr_correlator.book import HostKey
from microedr_correlator.eventtime import NS_PER_S
from microedr_correlator.processes import ProcessEntry

MAX_KILLS = 10_000
"""Remembered at once; the oldest is given up first."""

PATIENCE_NS = 10 * 60 * NS_PER_S
"""How long the exit may take to arrive."""

ACTOR = "service:correlator"


class _Key(NamedTuple):
    host: HostKey
    action_id: str


@dataclass(slots=True)
class _Kill:
    key: _Key
    since_unix_ns: int
    target: bytes = b""
    signed: ActionUpdate | None = None
    executed: ActionUpdate | None = None
    done: bool = False


class KillWatch:
    """The kills of a partition's hosts that are under way."""

    def __init__(self) -> None:
        self.watched: dict[bytes, list[_Key]] = {}
        """Actions by the ``process_uid`` whose end they wait for."""
        self._kills: OrderedDict[_Key, _Kill] = OrderedDict()
        self._ready: dict[_Key, ActionUpdate] = {}

    def __len__(self) -> int:
        return len(self._kills)

    def told(self, host: HostKey, update: ActionUpdate, now_unix_ns: int) -> bytes:
        """A step of an action on ``host`` was read; returns the process whose end it makes interesting, if any."""
        key = _Key(host, update.action_id)
        if update.state == ACTION_STATE_OBSERVED:
            self._settle(key, now_unix_ns)
            return b""
        if update.state not in {ACTION_STATE_SIGNED, ACTION_STATE_EXECUTED}:
            return b""
        if update.type not in {ACTION_TYPE_KILL_PROCESS, 0}:
            return b""
        kill = self._kill(key, now_unix_ns)
        if kill.done:
            return b""
        kill.target = update.process.process_uid or kill.target
        if update.state == ACTION_STATE_EXECUTED:
            kill.executed = update
        else:
            update.ClearField("signed")
            kill.signed = update
        if kill.executed is None or not kill.target:
            return b""
        waiting = self.watched.setdefault(kill.target, [])
        if key not in waiting:
            waiting.append(key)
        return kill.target

    def ended(self, host: HostKey, entry: ProcessEntry) -> None:
        """The process of ``host`` ended, when the window holds the event that says so."""
        if entry.exit_origin is None:
            return
        for key in [key for key in self.watched.get(entry.uid, ()) if key.host == host]:
            self._unwatch(entry.uid, key)
            kill = self._kills.get(key)
            if kill is not None and kill.executed is not None and not kill.done:
                kill.done = True
                self._ready[key] = _observed(kill.signed, kill.executed, entry)

    def drain(self) -> list[ActionUpdate]:
        """What is proven and not yet on the bus, as far as it was read."""
        updates = list(self._ready.values())
        self._ready.clear()
        return updates

    def expire(self, now_unix_ns: int) -> None:
        """Give up on kills whose exit did not come."""
        while self._kills:
            oldest = next(iter(self._kills.values()))
            if len(self._kills) <= MAX_KILLS and oldest.since_unix_ns > now_unix_ns - PATIENCE_NS:
                return
            self._forget(oldest)

    def _kill(self, key: _Key, now_unix_ns: int) -> _Kill:
        kill = self._kills.get(key)
        if kill is None:
            kill = self._kills[key] = _Kill(key, now_unix_ns)
        return kill

    def _settle(self, key: _Key, now_unix_ns: int) -> None:
        self._kill(key, now_unix_ns).done = True
        self._ready.pop(key, None)

    def _forget(self, kill: _Kill) -> None:
        del self._kills[kill.key]
        self._unwatch(kill.target, kill.key)

    def _unwatch(self, uid: bytes, key: _Key) -> None:
        waiting = self.watched.get(uid, [])
        if key in waiting:
            waiting.remove(key)
            if not waiting:
                del self.watched[uid]


def _observed(signed: ActionUpdate | None, executed: ActionUpdate, entry: ProcessEntry) -> ActionUpdate:
    """The same whoever writes it and however often. What the agent's answer leaves out, the order tells."""
    update = ActionUpdate()
    if signed is not None:
        update.CopyFrom(signed)
    update.MergeFrom(executed)
    update.state = ACTION_STATE_OBSERVED
    update.at_unix_ns = max(executed.at_unix_ns, entry.exit_unix_ns)
    update.actor = ACTOR
    update.reason = ""
    update.detail = f"exit of process {entry.pid} was seen"
    update.ClearField("signed")
    if entry.exit_origin is not None:
        update.evidence_event_ids[:] = [event_id(executed.host_id, *entry.exit_origin, entry.exit_seqno)]
    return update
