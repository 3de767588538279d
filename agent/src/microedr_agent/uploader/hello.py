"""Who this agent says it is, for the first message on a stream. The server trusts the certificate, not this."""

import os
import socket
from pathlib import Path

from microedr.frame import VERSION as FRAME_VERSION
from microedr.v1.transport_pb2 import Hello
from microedr_agent import __version__
from microedr_agent.ipc_messages import SensorGreeting


class HelloMaker:
    """Reads what stays the same once, while files can still be reached."""

    def __init__(self, host_id: str) -> None:
        self._base = Hello(
            host_id=host_id,
            agent_version=__version__,
            boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
            hostname=socket.gethostname(),
            os="linux",
            os_version=_os_version(),
            kernel_version=os.uname().release,
            frame_version=FRAME_VERSION,
        )

    def make(self, greeting: SensorGreeting | None, nonce: bytes) -> Hello:
        """The hello of now; empty where sensor or responder are not there."""
        hello = Hello()
        hello.CopyFrom(self._base)
        hello.session_nonce = nonce
        if greeting is not None:
            hello.epoch_id = str(greeting.epoch)
            hello.collector = greeting.collector
        return hello


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _os_version() -> str:
    for line in _text(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return ""
