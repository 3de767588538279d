"""One order, from its bytes to its result: the whole flow, with a journal and a clock from outside.

Every way out of here is an ``ActionResult``; whatever goes wrong before the signal is sent, nothing
was done. Not here: sockets (app).
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from microedr_agent.errors import ActionFailedError, ActionRefusedError, JournalError
from microedr_agent.log import Log
from microedr_agent.responder.action import Action, ActionResult, ActionState, ActionType
from microedr_agent.responder.guardrails import Guardrails
from microedr_agent.responder.journal import Journal
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.kill import hold_process, require_same
from microedr_agent.responder.reasons import Reason
from microedr_agent.responder.verify import Identity, claimed_action_id, verify_action

SUPPORTED_TYPES = {"kill_process": ActionType.KILL_PROCESS}
"""What this responder can do, by its name in agent.yaml."""

_RATE_WINDOW_S = 60.0


@dataclass(slots=True)
class RateLimit:
    """At most so many in any minute."""

    most: int
    _times_s: deque[float] = field(default_factory=deque)

    def admit(self, now_s: float) -> bool:
        """Take one, if one is left."""
        while self._times_s and now_s - self._times_s[0] >= _RATE_WINDOW_S:
            self._times_s.popleft()
        if len(self._times_s) >= self.most:
            return False
        self._times_s.append(now_s)
        return True


class Executor:
    """Carries out what it can prove to be ours. One order at a time."""

    def __init__(  # noqa: PLR0913 - each is one fact of the host
        self,
        *,
        identity: Identity,
        process_key: bytes,
        keyring: Keyring,
        allowed_types: Collection[ActionType],
        guardrails: Callable[[], Guardrails],
        journal: Journal,
        rate: RateLimit,
        log: Log,
        clock_unix_ns: Callable[[], int] = time.time_ns,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._process_key = process_key
        self._keyring = keyring
        self._allowed_types = frozenset(allowed_types)
        self._guardrails = guardrails
        self._journal = journal
        self._rate = rate
        self._log = log
        self._clock_unix_ns = clock_unix_ns
        self._clock_s = clock_s

    def execute(self, raw: bytes) -> ActionResult:
        """Carry out the order in ``raw``, a serialised SignedAction, at most once, and say what came of it."""
        try:
            action = verify_action(
                raw,
                keyring=self._keyring,
                allowed_types=self._allowed_types,
                identity=self._identity,
                now_unix_ns=self._clock_unix_ns(),
                started=self._journal,
            )
        except ActionRefusedError as error:
            return self._answer(claimed_action_id(raw), error)
        try:
            self._kill(action)
        except (ActionRefusedError, ActionFailedError, JournalError) as error:
            result = self._answer(action.action_id, error)
        else:
            result = self._result(action.action_id, ActionState.EXECUTED)
            self._log.info("action_executed", action_id=action.action_id, target_pid=action.process.pid)
        self._remember(result)
        return result

    def _kill(self, action: Action) -> None:
        # The intent is on disk before the signal, and everything that can say no comes before the intent.
        with hold_process(action.process.pid) as held:
            forbidden = self._guardrails().forbids(held.facts)
            if forbidden is not None:
                raise ActionRefusedError(forbidden)
            require_same(held.facts, action.process, self._process_key)
            if not self._rate.admit(self._clock_s()):
                raise ActionRefusedError(Reason.RATE_LIMITED)
            self._journal.record_intent(action, now_unix_ns=self._clock_unix_ns())
            held.kill()

    def _answer(self, action_id: str, error: ActionRefusedError | ActionFailedError | JournalError) -> ActionResult:
        failed = isinstance(error, ActionFailedError)
        state = ActionState.FAILED if failed else ActionState.REFUSED
        if error.reason == Reason.EXPIRED:
            state = ActionState.EXPIRED
        detail = str(error) if isinstance(error, JournalError) else error.detail
        event = "action_failed" if failed else "action_refused"
        self._log.warning(event, action_id=action_id, reason=str(error.reason), detail=detail)
        return self._result(action_id, state, error.reason, detail)

    def _result(self, action_id: str, state: ActionState, reason: str = "", detail: str = "") -> ActionResult:
        finished_unix_ns = self._clock_unix_ns()
        return ActionResult(action_id, state, reason, finished_unix_ns, detail)

    def _remember(self, result: ActionResult) -> None:
        try:
            self._journal.record_result(result)
        except JournalError as error:
            # What was done cannot be undone and is known: it is reported all the same.
            self._log.error("journal_failed", action_id=result.action_id, error=str(error))
