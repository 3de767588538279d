"""What the host says of itself, read once."""

import os
from pathlib import Path

from microedr_agent import __version__
from microedr_agent.sensor.own_events import HostFacts

_RELEASES = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
_PRETTY_NAME = "PRETTY_NAME="


def read_host_facts(host_id: str, boot_id: str, collector: str) -> HostFacts:
    """The facts of this host."""
    system = os.uname()
    return HostFacts(
        host_id=host_id,
        hostname=system.nodename,
        os_version=_os_version(),
        kernel_version=system.release,
        architecture=system.machine,
        boot_id=boot_id,
        agent_version=__version__,
        collector=collector,
    )


def _os_version() -> str:
    """PRETTY_NAME of os-release; empty when there is none."""
    for path in _RELEASES:
        try:
            lines = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(_PRETTY_NAME):
                return line.removeprefix(_PRETTY_NAME).strip("\"'")
    return ""
