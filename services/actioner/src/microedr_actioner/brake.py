"""The fleet-wide brake: a rule that acts too widely is disarmed until a person looks. Pure.

A wrong rule, or somebody who plays it, would otherwise end the same good program everywhere within
seconds. Counted over all hosts, whichever actioner decides for them.
"""

from collections import deque
from dataclasses import dataclass, field

_NS_PER_S = 1_000_000_000
MAX_REMEMBERED_IDS = 10_000
"""Actions told apart; far more than the brake lets through in any window."""


@dataclass(frozen=True, slots=True)
class BrakeLimits:
    """What one rule may do within ``window_s``."""

    window_s: float
    max_hosts: int
    max_executables: int
    max_actions: int


@dataclass(frozen=True, slots=True)
class Taken:
    """One automatic action."""

    action_id: str
    host: tuple[str, str]
    """Tenant and host."""
    exe: str
    at_unix_ns: int


@dataclass(slots=True)
class Brake:
    """Remembers what rules did lately and which were disarmed."""

    limits: BrakeLimits
    _taken: dict[str, deque[Taken]] = field(default_factory=dict)
    _known: dict[str, None] = field(default_factory=dict)
    _disarmed: set[str] = field(default_factory=set)

    @property
    def disarmed(self) -> frozenset[str]:
        """Ids of the rules that may not act."""
        return frozenset(self._disarmed)

    def disarm(self, rule_id: str) -> None:
        """The rule may not act any more."""
        self._disarmed.add(rule_id)

    def admit(self, rule_id: str, action: Taken) -> bool:
        """Count ``action`` and allow it; or, when it is one too many, disarm the rule.

        One that was counted before is allowed again, as a replay asks for it.
        """
        if action.action_id in self._known:
            return True
        if rule_id in self._disarmed:
            return False
        taken = self._recent(rule_id, action.at_unix_ns)
        hosts = {one.host for one in taken} | {action.host}
        executables = {one.exe for one in taken} | {action.exe}
        limits = self.limits
        if (
            len(hosts) > limits.max_hosts
            or len(executables) > limits.max_executables
            or len(taken) + 1 > limits.max_actions
        ):
            self.disarm(rule_id)
            return False
        self.record(rule_id, action)
        return True

    def record(self, rule_id: str, action: Taken) -> None:
        """Count an action that was decided, here or by another actioner."""
        if action.action_id in self._known:
            return
        self._known[action.action_id] = None
        if len(self._known) > MAX_REMEMBERED_IDS:
            del self._known[next(iter(self._known))]
        self._taken.setdefault(rule_id, deque(maxlen=self.limits.max_actions + 1)).append(action)

    def _recent(self, rule_id: str, now_unix_ns: int) -> deque[Taken]:
        taken = self._taken.setdefault(rule_id, deque(maxlen=self.limits.max_actions + 1))
        while taken and now_unix_ns - taken[0].at_unix_ns > self.limits.window_s * _NS_PER_S:
            taken.popleft()
        return taken
