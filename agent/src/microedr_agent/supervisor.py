"""``microedr-agent run``: keeps sensor and uploader alive, and is the responder.

One thread, one selector. Children are forked before anything heavy is imported and are never exec'd,
so that no process of the agent needs to run a program, and the kernel can forbid it. Alone, without
children, it is ``microedr-agent responder``.
"""

import contextlib
import functools
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from microedr_agent import privileges, seccomp
from microedr_agent.child import EXIT_UNUSABLE, Announce, Child, ChildContext, ChildSpec
from microedr_agent.config import AgentConfig
from microedr_agent.errors import IpcError, JournalError, KeyringError
from microedr_agent.log import Log
from microedr_agent.rundir import hold_run_dir, prepare_run_dir, write_status

if TYPE_CHECKING:
    from microedr_agent.responder.app import Responder

STOP_DEADLINE_S = 7.5
"""From the signal to the last SIGKILL; the whole agent is gone within 8 s."""

_LONGEST_WAIT_S = 10.0


class Supervisor:
    """Runs ``specs`` until SIGTERM or SIGINT; they are stopped in the order given, one after the other."""

    def __init__(self, config: AgentConfig, specs: Sequence[ChildSpec], log: Log) -> None:
        self._config = config
        self._children = [Child(spec) for spec in specs]
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._responder: Responder | None = None
        self._responder_problem = ""
        self._hardening_problems: list[str] = []
        self._network_fd = -1
        self._stop_requested = False
        self._stop_due_s = 0.0

    def run(self) -> int:
        """Run until a signal; returns the exit status.

        Raises:
            ConfigError: The run directory cannot be used, or another agent runs on it.
        """
        privileges.name_process("microedr-agent")
        prepare_run_dir(self._config)
        hold_run_dir(self._config.run_dir)
        self._harden()
        with self._signals():
            for child in self._children:
                self._start(child)
            self._leave_network()
            status = self._open_responder()
            if status:
                self._stop_requested = True
            self._publish()
            privileges.give_back_memory()
            self._loop()
        if self._responder is not None:
            self._responder.close()
        self._log.info("agent_stopped")
        return status

    def _harden(self) -> None:
        problem = seccomp.enter(seccomp.Room.AGENT)
        if problem:
            self._hardening_problems.append(f"seccomp: {problem}")
        privileges.forbid_gain()
        privileges.forbid_dump()
        if os.geteuid() != 0:
            self._hardening_problems.append("not root: all processes share one user, and no eBPF can be loaded")
        for problem in self._hardening_problems:
            self._log.warning("hardening_incomplete", problem=problem)

    def _leave_network(self) -> None:
        # Children are forked into the host's network later too, so its descriptor is kept.
        if os.geteuid() != 0:
            return
        try:
            self._network_fd = privileges.open_network()
            privileges.leave_network()
        except OSError as error:
            self._hardening_problems.append(f"responder keeps the network: {error.strerror}")
            self._log.warning("hardening_incomplete", problem=self._hardening_problems[-1])

    def _open_responder(self) -> int:
        # Started last and imported last: what it needs must not be in the memory of the children.
        from microedr_agent.responder.app import Responder  # noqa: PLC0415 - see above

        try:
            responder = Responder(self._config, own_pids=self._own_pids, log=self._log)
            responder.open(self._selector)
        except KeyringError as error:
            self._responder_problem = f"actions.trusted_keys: {error}"
            self._log.error("responder_unusable", error=self._responder_problem)
            return EXIT_UNUSABLE
        except (JournalError, IpcError) as error:
            # Without it no order is taken, which harms nobody; events still matter.
            self._responder_problem = str(error)
            self._log.error("responder_unusable", error=self._responder_problem)
            return 0
        self._responder = responder
        return 0

    def _own_pids(self) -> frozenset[int]:
        return frozenset({os.getpid(), *(child.pid for child in self._children if child.running)})

    def _loop(self) -> None:
        while True:
            now_s = time.monotonic()
            if self._stop_requested:
                if not self._advance_stop(now_s):
                    return
            else:
                self._restart_due(now_s)
            for key, _ in self._selector.select(self._wait_s(now_s)):
                # A callable may have closed what a later one is about, and its number may be another's already.
                present = self._selector.get_map().get(key.fd)
                if present is not None and present.fileobj == key.fileobj:
                    key.data()

    def _wait_s(self, now_s: float) -> float:
        if self._stop_requested:
            return 0.05
        due_s = [child.restart_at_s - now_s for child in self._children if not child.running]
        return max(0.0, min([_LONGEST_WAIT_S, *due_s]))

    def _restart_due(self, now_s: float) -> None:
        for child in self._children:
            if not child.running and child.restart_at_s <= now_s:
                self._start(child)
                self._publish()

    def _start(self, child: Child) -> None:
        child.start(self._context, network_fd=self._network_fd, now_s=time.monotonic())
        self._selector.register(child.pidfd, selectors.EVENT_READ, functools.partial(self._ended, child))
        self._selector.register(child.announcements_fd, selectors.EVENT_READ, functools.partial(self._told, child))
        self._log.info("process_started", name=child.spec.name, child_pid=child.pid, restarts=child.restarts)

    def _context(self, announce: Announce) -> ChildContext:
        return ChildContext(announce, tuple(self._hardening_problems))

    def _told(self, child: Child) -> None:
        if not child.read_announcements():
            self._selector.unregister(child.announcements_fd)
        self._publish()

    def _ended(self, child: Child) -> None:
        pid = child.pid
        child.read_announcements()
        self._selector.unregister(child.pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.announcements_fd)
        now_s = time.monotonic()
        child.reap(now_s=now_s)
        write = self._log.info if self._stop_requested else self._log.warning
        pause_s = 0.0 if self._stop_requested else round(child.restart_at_s - now_s, 1)
        write("process_ended", name=child.spec.name, child_pid=pid, how=child.last_exit, next_start_s=pause_s)
        self._publish()

    def _advance_stop(self, now_s: float) -> bool:
        """Take the next step of the stop when it is due; False when nothing runs any more."""
        running = [child for child in self._children if child.running]
        if not running:
            return False
        if not self._stop_due_s:
            self._stop_due_s = now_s + STOP_DEADLINE_S
            self._log.info("agent_stopping")
        # The first still running is being stopped; those behind it work on, to take what it leaves.
        first = running[0]
        if not first.stop_at_s:
            first.send(signal.SIGTERM)
            first.stop_at_s = now_s + first.spec.stop_grace_s
        elif now_s >= first.stop_at_s:
            first.send(signal.SIGKILL)
        if now_s >= self._stop_due_s:
            for child in running:
                child.send(signal.SIGKILL)
        return True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        previous_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        self._selector.register(ours, selectors.EVENT_READ, lambda: ours.recv(64))
        try:
            yield
        finally:
            for number, action in previous.items():
                signal.signal(number, action)
            signal.set_wakeup_fd(previous_fd)
            ours.close()
            theirs.close()

    def _request_stop(self, _number: int, _frame: object) -> None:
        self._stop_requested = True

    def _publish(self) -> None:
        status = {
            "pid": os.getpid(),
            "processes": {
                child.spec.name: {
                    **child.announced,
                    "pid": child.pid,
                    "restarts": child.restarts,
                    "last_exit": child.last_exit,
                }
                for child in self._children
            },
            "responder": {
                "open": self._responder is not None,
                "armed": self._responder is not None and self._config.actions.armed,
                "problem": self._responder_problem,
            },
            "hardening_problems": self._hardening_problems,
        }
        try:
            write_status(self._config.run_dir, status)
        except OSError as error:
            self._log.error("status_not_written", error=str(error))
