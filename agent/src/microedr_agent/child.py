"""One forked process of the agent, as its supervisor sees it: fork, announcements, end, pause before the next."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from microedr_agent import privileges
from microedr_agent.errors import AgentError
from microedr_agent.log import Log

FIRST_PAUSE_S = 0.2
MOST_PAUSE_S = 30.0
"""A child that cannot live is tried for ever, at this pace: its cause may go away."""

SETTLED_S = 60.0
"""A child that lived this long starts again with the shortest pause."""

MAX_ANNOUNCEMENT_BYTES = 4096
"""PIPE_BUF: a write of at most this is never mixed with another."""

_MOST_FACTS = 32

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXIT_CRASHED = 1
EXIT_UNUSABLE = 2

Announce = Callable[[Mapping[str, object]], None]
"""Tells the supervisor something for the status page; never blocks, never raises."""


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a child is given beside its settings."""

    announce: Announce
    hardening_problems: tuple[str, ...] = ()
    """What could not be given up, for the heartbeat."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run in a process of its own."""

    name: str
    run: Callable[[ChildContext], int]
    """Returns the exit status. SIGTERM asks it to end. It gives up its privileges itself."""

    stop_grace_s: float
    """After SIGTERM, before SIGKILL."""


@dataclass(slots=True)
class Child:
    """The present incarnation of a spec, or the pause before the next one."""

    spec: ChildSpec
    pid: int = 0
    """0: none runs."""
    pidfd: int = -1
    announcements_fd: int = -1
    started_s: float = 0.0
    restart_at_s: float = 0.0
    stop_at_s: float = 0.0
    """When SIGKILL follows SIGTERM; 0: not being stopped."""
    restarts: int = 0
    announced: dict[str, object] = field(default_factory=dict)
    last_exit: str = ""
    _short_lives: int = 0

    @property
    def running(self) -> bool:
        """Whether a process exists."""
        return self.pid != 0

    def start(self, context_of: Callable[[Announce], ChildContext], *, network_fd: int, now_s: float) -> None:
        """Fork. Returns in the parent only.

        Args:
            context_of: Completes the context in the child.
            network_fd: Namespace the child shall live in; -1: that of the parent.
            now_s: Monotonic.
        """
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        parent_pid = os.getpid()
        # Until the child has handlers of its own, a signal must not run its parent's there.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _live(self.spec, context_of(_announcer(write_fd)), parent_pid, network_fd, {write_fd, network_fd})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(write_fd)
        self.pid, self.pidfd, self.announcements_fd = pid, os.pidfd_open(pid), read_fd
        self.started_s, self.announced = now_s, {}

    def read_announcements(self) -> bool:
        """Take what the child told since the last time; False when it will tell nothing more."""
        try:
            told = os.read(self.announcements_fd, 16 * MAX_ANNOUNCEMENT_BYTES)
        except BlockingIOError:
            return True
        for line in told.splitlines():
            # The child may have been taken over: what is no object, or too much, is nothing.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                facts = {**self.announced, **json.loads(line)}
                if len(facts) <= _MOST_FACTS:
                    self.announced = facts
        return bool(told)

    def reap(self, *, now_s: float) -> None:
        """The process ended: collect its status and set the time of the next start."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.last_exit = f"status {code}" if code >= 0 else signal.Signals(-code).name
        os.close(self.pidfd)
        os.close(self.announcements_fd)
        self.pid, self.pidfd, self.announcements_fd = 0, -1, -1
        self._short_lives = 0 if now_s - self.started_s >= SETTLED_S else self._short_lives + 1
        full_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._short_lives, 16))
        self.restart_at_s = now_s + full_s * _jitter()
        self.restarts += 1

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if there is one."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def _announcer(fd: int) -> Announce:
    def announce(facts: Mapping[str, object]) -> None:
        line = json.dumps(facts, default=str).encode() + b"\n"
        if len(line) <= MAX_ANNOUNCEMENT_BYTES:
            with contextlib.suppress(OSError):  # nobody reads now: the page is not worth stopping for
                os.write(fd, line)

    return announce


def _live(spec: ChildSpec, context: ChildContext, parent_pid: int, network_fd: int, kept: Collection[int]) -> None:
    """The whole life of the child; never returns.

    The parent's objects stay referenced from its frames, so none of them is finalised here over a
    descriptor number that has come to mean something else.
    """
    status = EXIT_CRASHED
    log = Log(spec.name)
    try:
        _close_all_but(kept)
        os.setsid()  # the terminal's Ctrl-C is for the supervisor, who stops its children in order
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        privileges.die_with(parent_pid, signal.SIGTERM)
        privileges.name_process(f"medr-{spec.name}")
        if network_fd >= 0:
            privileges.join_network(network_fd)
            os.close(network_fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        status = spec.run(context)
    except KeyboardInterrupt:
        status = 0
    except AgentError as error:
        log.error("process_unusable", error=str(error))  # noqa: TRY400 - meant, and told in one line
        status = EXIT_UNUSABLE
    except BaseException as error:  # noqa: BLE001 - it must not unwind into the parent's frames
        log.error("process_crashed", error=f"{type(error).__name__}: {error}", place=_place_of(error))  # noqa: TRY400 - one line
    os._exit(status)


def _place_of(error: BaseException) -> str:
    """File and line that raised; by hand, for the traceback module costs the supervisor memory."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def _jitter() -> float:
    """Between one half and one, so that many hosts do not do the same at once."""
    return 0.5 + os.urandom(1)[0] / 510


def _close_all_but(kept: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - these are numbers, not paths
        if int(name) > 2 and int(name) not in kept:  # noqa: PLR2004 - the standard streams stay
            with contextlib.suppress(OSError):
                os.close(int(name))
