"""A supervisor with children of the tests' own, as a program: ``agent_children.py STATE_DIR PUBLIC_KEY_HEX``.

The sensor announces what it can still do after it gave up its privileges; both children write when they were
asked to stop.
"""

import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from microedr_agent import privileges, seccomp
from microedr_agent.child import ChildContext, ChildSpec
from microedr_agent.config import ActionsConfig, AgentConfig, IngestConfig, MtlsConfig, RunAsConfig
from microedr_agent.errors import AgentError
from microedr_agent.log import Log
from microedr_agent.supervisor import Supervisor

SENSOR_UID, UPLOADER_UID, GID = 61480, 61481, 61480


def config_of(state_dir: Path, public_key: bytes) -> AgentConfig:
    """A configuration below one directory."""
    none = state_dir / "none"
    return AgentConfig(
        tenant_id="acme",
        host_id="host-a",
        ingest=IngestConfig(url="https://127.0.0.1:1", mtls=MtlsConfig(cert_file=none, key_file=none, ca_file=none)),
        actions=ActionsConfig(enabled=True, allow=("kill_process",), trusted_keys=(public_key,)),
        run_as=RunAsConfig(sensor_uid=SENSOR_UID, uploader_uid=UPLOADER_UID, gid=GID),
        run_dir=state_dir / "run",
        state_dir=state_dir / "state",
    )


def attempt(action: Callable[[], object]) -> str:
    """What came of it: "ok", or the errno's text."""
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return "ok"


def _child(config: AgentConfig, room: seccomp.Room, uid: int) -> Callable[[ChildContext], int]:
    def run(context: ChildContext) -> int:
        if room is seccomp.Room.SENSOR and os.geteuid() == 0:
            privileges.leave_network()
        privileges.become(uid, GID)
        problem = seccomp.enter(room)
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(time.monotonic()))
        status = Path("/proc/self/status").read_text(encoding="ascii")
        context.announce(
            {
                "seccomp_problem": problem,
                "uid": os.getuid(),
                "groups": os.getgroups(),
                "capabilities": next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")),
                "exec": attempt(lambda: os.execv("/bin/true", ["true"])),  # noqa: S606 - it must fail
                "fork": attempt(os.fork),
                "internet_socket": attempt(lambda: socket.socket(socket.AF_INET)),
                "raw_socket": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
                "interfaces": [name for _, name in socket.if_nameindex()] if room is seccomp.Room.UPLOADER else [],
                "root_again": attempt(lambda: os.setresuid(0, 0, 0)),
                "hardening_problems": list(context.hardening_problems),
            }
        )
        while not stop:
            time.sleep(0.02)
        context.announce({"asked_to_stop_s": stop[0]})
        if room is seccomp.Room.SENSOR:
            time.sleep(0.3)  # the flush that the uploader waits for
        context.announce({"ended_s": time.monotonic()})
        return 0

    return run


def main() -> int:
    """Run until a signal."""
    state_dir, key = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
    config = config_of(state_dir, key)
    if "hang" in sys.argv:
        config = dataclasses.replace(config, log_level="debug")
    specs = [
        ChildSpec("sensor", _child(config, seccomp.Room.SENSOR, SENSOR_UID), stop_grace_s=3.0),
        ChildSpec("uploader", _child(config, seccomp.Room.UPLOADER, UPLOADER_UID), stop_grace_s=4.0),
    ]
    if "hang" in sys.argv:
        specs = [ChildSpec(name, _hang, stop_grace_s=grace) for name, grace in (("sensor", 3.0), ("uploader", 4.0))]
    try:
        return Supervisor(config, specs, Log("agent")).run()
    except AgentError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _hang(context: ChildContext) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.announce({"hangs": True})
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
