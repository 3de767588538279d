"""The sensor process: attach as root, give everything up, then rings → events → spool until it is told to stop."""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

# Whoever imports hashlib maps OpenSSL, 3.4 MB, for hashes that Python has of its own. Before the first import of it
# this makes hashlib take those; where it is imported already nothing changes.
sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]  # None is how an import is told to fail

# ruff: noqa: E402 - see above
from microedr.ids import process_key
from microedr_agent import privileges, seccomp
from microedr_agent.boot import read_boot_id
from microedr_agent.child import ChildContext
from microedr_agent.config import AgentConfig
from microedr_agent.errors import EbpfUnavailableError
from microedr_agent.log import Log
from microedr_agent.sensor import procfs
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.collector import Collector
from microedr_agent.sensor.encode import Encoder
from microedr_agent.sensor.frames import FrameBuffer
from microedr_agent.sensor.hostfacts import read_host_facts
from microedr_agent.sensor.loader import Probe, load_probes
from microedr_agent.sensor.own_events import frame_head
from microedr_agent.sensor.processes import ProcessTable
from microedr_agent.sensor.sink import EventSink
from microedr_agent.sensor.spool_sink import Places
from microedr_agent.sensor.users import Users
from microedr_agent.sensor.waiter import Waiter

HEARTBEAT_S = 60.0
LOSS_S = 1.0
"""Losses are told at most this often, so that a storm of drops does not become one of records."""

CLOCK_S = 1.0
USERS_S = 10.0
_KIB = 1024
_NEVER_SEEN = "connections accepted through io_uring"
"""By any program there is: accept is seen as a system call, and io_uring makes none."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the sensor sees with, and what it cannot see."""

    collector: str
    """"ebpf" or "none"."""
    probes: tuple[Probe, ...]
    blind_spots: tuple[str, ...]
    attach_failures: tuple[str, ...]
    reason: str = ""
    """Why there is no collector; empty when there is one."""


class Sensor:
    """The loop. Made once everything that needs root is done."""

    def __init__(  # noqa: PLR0913 - what the process is made of
        self,
        config: AgentConfig,
        sight: Sight,
        sink: EventSink,
        processes: ProcessTable,
        *,
        boot_id: str,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sight = sight
        self._sink = sink
        self._processes = processes
        self._users = Users()
        self._clock = WallClock()
        self._monotonic_s = monotonic_s
        facts = read_host_facts(config.host_id, boot_id, sight.collector)
        upload = config.upload
        self._frames = FrameBuffer(
            sink,
            frame_head(facts),
            max_events=upload.batch_max_events,
            max_raw_bytes=upload.frame_raw_bytes,
        )
        encoder = Encoder(processes, self._users, self._clock)
        self._collector = Collector(sight.probes, encoder, self._frames, sink)
        # Looking by timer costs a tenth of being woken for each event. Each look ends with a frame, so this is also how
        # long an event waits at most; a ring that fills faster wakes the sensor by itself.
        self._poll_s = upload.flush_interval_sec
        now_s = monotonic_s()
        self._heartbeat_due_s = now_s + HEARTBEAT_S
        self._loss_due_s = self._clock_due_s = self._users_due_s = now_s

    def run(self, waiter: Waiter) -> None:
        """Work until a stop signal; returns when everything seen is in the spool."""
        waiter.watch(probe.ring for probe in self._sight.probes)
        self._beat("start")
        self._flush()
        while waiter.wait(self._poll_s):
            self.step()
        self.stop()

    def step(self) -> None:
        """One round."""
        self._collector.collect()
        self._do_what_is_due()
        self._flush()

    def stop(self) -> None:
        """Stop the programs, take what is left in the rings, and close the account."""
        for probe in self._sight.probes:
            probe.detach()
        self._collector.collect()
        self._collector.tell_losses()
        self._beat("stop")
        self._flush()
        self._sink.close()

    def _do_what_is_due(self) -> None:
        now_s = self._monotonic_s()
        if now_s >= self._clock_due_s:
            self._clock_due_s = now_s + CLOCK_S
            if self._clock.measure():
                self._processes.forget_blocks()
        if now_s >= self._users_due_s:
            self._users_due_s = now_s + USERS_S
            if self._users.refresh():
                self._processes.forget_blocks()
        if now_s >= self._loss_due_s:
            self._loss_due_s = now_s + LOSS_S
            self._collector.tell_losses()
        if now_s >= self._heartbeat_due_s:
            self._heartbeat_due_s = now_s + HEARTBEAT_S
            self._beat("run")

    def _beat(self, phase: str) -> None:
        sight = self._sight
        self._collector.beat(phase, sight.collector, sight.blind_spots, sight.attach_failures)

    def _flush(self) -> None:
        self._frames.flush()
        self._sink.commit()


def run_sensor(config: AgentConfig, context: ChildContext) -> int:
    """Be the sensor until SIGTERM; returns the exit status.

    Without eBPF it runs all the same: its heartbeats say that nothing is seen, and why.

    Raises:
        SpoolLockedError: Another sensor writes this spool.
        SpoolError, IpcError: The spool or the run directory cannot be used.
    """
    waiter = Waiter()
    log = Log("sensor", config.log_level, host_id=config.host_id)
    privileges.name_process("medr-sensor")
    boot_id = read_boot_id()
    processes = ProcessTable(process_key(config.host_id, boot_id))
    sight = _open_eyes(config, processes, context.hardening_problems, log)
    places = Places(config)
    sight = _give_up_privileges(config, sight, log)
    sink = places.open_sink("ebpf" if sight.probes else "", log)
    sensor = Sensor(config, sight, sink, processes, boot_id=boot_id)
    context.announce(
        {
            "collector": sight.collector if sight.probes else "",
            "reason": sight.reason,
            "blind_spots": sight.blind_spots,
            "attach_failures": sight.attach_failures,
        }
    )
    log.info("sensor_started", collector=sight.collector, attach_failures=sight.attach_failures)
    # Nothing the loop does makes cycles; without the collector its pages stay shared and its pauses away.
    gc.collect()
    gc.freeze()
    gc.disable()
    sensor.run(waiter)
    log.info("sensor_stopped")
    return 0


def _open_eyes(config: AgentConfig, processes: ProcessTable, problems: Sequence[str], log: Log) -> Sight:
    """Attach what can be attached, then learn who runs already: in this order nobody falls between."""
    blind_spots = [f"hardening: {problem}" for problem in problems]
    if not config.collectors.linux.ebpf:
        return _blind("switched off by collectors.linux.ebpf", blind_spots)
    try:
        loaded = load_probes({"proc": config.rings.proc_kb * _KIB, "net": config.rings.net_kb * _KIB})
    except EbpfUnavailableError as error:
        log.warning("ebpf_unavailable", reason=str(error))
        return _blind(str(error), blind_spots)
    blind_spots.append(_NEVER_SEEN)
    if procfs.in_initial_pid_namespace():
        procfs.remember_running(processes)
    else:
        blind_spots.append("not in the host's pid namespace: processes started before the sensor are unknown")
    for failure in loaded.failures:
        log.warning("program_not_attached", failure=failure)
    return Sight("ebpf", loaded.probes, tuple(blind_spots), loaded.failures)


def _blind(reason: str, blind_spots: Sequence[str]) -> Sight:
    return Sight("none", (), (*blind_spots, f"ebpf: {reason}"), (), reason)


def _give_up_privileges(config: AgentConfig, sight: Sight, log: Log) -> Sight:
    """Leave network, user and capabilities behind; what could not be is a blind spot, but staying root is an error."""
    problems = []
    if os.geteuid() == 0:
        try:
            privileges.leave_network()
        except OSError as error:
            problems.append(f"hardening: sensor keeps the network: {error.strerror}")
    seccomp.prepare()
    privileges.become(config.run_as.sensor_uid, config.run_as.gid)
    problem = seccomp.enter(seccomp.Room.SENSOR)
    if problem:
        problems.append(f"hardening: sensor without seccomp: {problem}")
    for text in problems:
        log.warning("hardening_incomplete", problem=text)
    return replace(sight, blind_spots=(*sight.blind_spots, *problems))
