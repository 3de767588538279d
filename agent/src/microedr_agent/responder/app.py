"""The responder's door: takes orders from the uploader, gives each to the executor, keeps reports until taken.

Lives in somebody else's selector loop, for the supervisor is the responder. Never blocks but for
the disk. Not here: what makes an order right (verify) and what is done (execute).
"""

import os
import selectors
import time
from collections.abc import Callable, Collection
from pathlib import Path

from microedr.ids import process_key
from microedr_agent.boot import read_boot_id
from microedr_agent.config import AgentConfig
from microedr_agent.errors import IpcError, JournalError
from microedr_agent.ipc import Channel, Listener
from microedr_agent.ipc_messages import NONCE_BYTES, ActionOrder, ActionReport, ActionReportAck, SessionNonce
from microedr_agent.log import Log
from microedr_agent.responder.action import ActionResult
from microedr_agent.responder.execute import SUPPORTED_TYPES, Executor, RateLimit
from microedr_agent.responder.guardrails import Guardrails
from microedr_agent.responder.journal import Journal
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.reasons import Reason
from microedr_agent.responder.verify import Identity

MAX_REPORTS = 1024
"""Kept until the uploader takes them. Beyond that the oldest goes; those of started orders stay in the
journal and come again at the next start."""

_MESSAGES_PER_TURN = 16
"""So that a flood of orders cannot keep the loop from its other work."""

JOURNAL_DIRECTORY = "responder"
_PRIVATE_MODE = 0o700


class Responder:
    """One run of the responder: its session nonce is drawn when it is made."""

    def __init__(self, config: AgentConfig, *, own_pids: Callable[[], Collection[int]], log: Log) -> None:
        """Open the journal; nothing is listened to before ``open``.

        Raises:
            KeyringError: A trusted key is not a key.
            JournalError: The state directory cannot be written.
        """
        self.session_nonce = os.urandom(NONCE_BYTES)
        self._log = log
        self._config = config
        keyring = Keyring(config.actions.trusted_keys)
        self._journal = Journal(_journal_path(config.state_dir), now_unix_ns=time.time_ns())
        if self._journal.damaged:
            log.warning("journal_damaged")
        actions = config.actions
        allowed = (
            [SUPPORTED_TYPES[name] for name in actions.allow if name in SUPPORTED_TYPES] if actions.enabled else []
        )
        self._executor = Executor(
            identity=Identity(config.tenant_id, config.host_id, self.session_nonce),
            process_key=process_key(config.host_id, read_boot_id()),
            keyring=keyring,
            allowed_types=allowed,
            guardrails=lambda: Guardrails(own_pids=own_pids(), protected=actions.protected),
            journal=self._journal,
            rate=RateLimit(actions.max_kills_per_minute),
            log=log,
        )
        self._reports: dict[int, ActionResult] = {}
        self._unsent: list[int] = []
        self._last_number = 0
        self._listener: Listener | None = None
        self._channel: Channel | None = None
        self._selector: selectors.BaseSelector | None = None
        for result in self._journal.unreported():
            self._keep(result)

    def open(self, selector: selectors.BaseSelector) -> None:
        """Listen; ``selector`` gets callables of no argument as data.

        Raises:
            IpcError: The socket cannot be made.
        """
        run_as = self._config.run_as
        self._listener = Listener(
            self._config.responder_socket,
            allowed_uids={run_as.uploader_uid, os.geteuid()},
            gid=run_as.gid if os.geteuid() == 0 else None,
        )
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._log.info("responder_opened", armed=self._config.actions.armed, reports_waiting=len(self._reports))

    def close(self) -> None:
        """Release everything. Idempotent."""
        self._hang_up()
        if self._listener is not None and self._selector is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._journal.close()

    def _accept(self) -> None:
        channel = self._listener.accept() if self._listener else None
        if channel is None or self._selector is None:
            return
        # The newest wins: an uploader that was restarted while its old end still hangs must get through.
        self._hang_up()
        self._channel = channel
        self._selector.register(channel, selectors.EVENT_READ, self._converse)
        self._unsent = list(self._reports)
        try:
            channel.send(SessionNonce(self.session_nonce))
            self._send_reports()
        except IpcError as error:
            self._hang_up(str(error))

    def _converse(self) -> None:
        try:
            self._receive()
            self._send_reports()
        except IpcError as error:
            self._hang_up(str(error))

    def _receive(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            message = self._channel.receive() if self._channel else None
            match message:
                case None:
                    return
                case ActionOrder(signed):
                    self._answer(self._executor.execute(signed))
                case ActionReportAck(number):
                    self._forget(number)
                case _:
                    raise IpcError(f"the uploader sent a {type(message).__name__}")

    def _answer(self, result: ActionResult) -> None:
        if result.reason == Reason.REPLAYED:
            # An order comes twice when its first report was lost on the way. What was done then is told
            # again, and first: for the backend the first final word on an action counts.
            first = self._journal.result_of(result.action_id)
            if first is not None:
                self._unsent.append(self._keep(first))
        self._unsent.append(self._keep(result))

    def _send_reports(self) -> None:
        if self._channel is None or self._selector is None:
            return
        while self._unsent:
            number = self._unsent[0]
            result = self._reports.get(number)
            if result is not None and not self._channel.send(ActionReport(number, result.encode())):
                break
            del self._unsent[0]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._channel, events, self._converse)

    def _keep(self, result: ActionResult) -> int:
        if len(self._reports) >= MAX_REPORTS:
            dropped = self._reports.pop(next(iter(self._reports)))
            self._log.warning("report_dropped", action_id=dropped.action_id, reason="full")
        self._last_number += 1
        self._reports[self._last_number] = result
        return self._last_number

    def _forget(self, number: int) -> None:
        result = self._reports.pop(number, None)
        if result is None or result != self._journal.result_of(result.action_id):
            return
        try:
            self._journal.record_ack(result.action_id)
        except JournalError as error:
            self._log.error("journal_failed", action_id=result.action_id, error=str(error))

    def _hang_up(self, why: str = "") -> None:
        if self._channel is None or self._selector is None:
            return
        self._selector.unregister(self._channel)
        self._channel.close()
        self._channel = None
        if why:
            self._log.info("uploader_left", why=why)


def _journal_path(state_dir: Path) -> str:
    directory = state_dir / JOURNAL_DIRECTORY
    try:
        directory.mkdir(mode=_PRIVATE_MODE, parents=True, exist_ok=True)
        directory.chmod(_PRIVATE_MODE)
    except OSError as error:
        raise JournalError(Reason.JOURNAL_FAILED, f"{directory}: {error.strerror}") from error
    return str(directory / "journal")
