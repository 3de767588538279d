"""From MICROEDR_BUS to a bus: ``memory``, ``sqlite:///path`` or ``kafka://host:port,host:port``."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from microedr_chassis.bus.api import Bus
from microedr_chassis.errors import SettingsError

VARIABLE = "MICROEDR_BUS"

_ALLOWED = "memory, sqlite:///path/to/file or kafka://host:port,host:port"


def connect_bus(url: str) -> Bus:
    """The bus of this URL, not yet started.

    ``sqlite:path`` is relative to the working directory, ``sqlite:///path`` absolute. Kafka takes
    ``?session_timeout_s=N``: after how long the partitions of a dead consumer go to others.

    Raises:
        SettingsError: It is not a bus URL; names the variable and what is allowed.
    """
    # Backends are imported when they are asked for: librdkafka alone costs 10 MB of memory.
    scheme, _, rest = url.partition(":")
    if url in ("memory", "memory:", "memory://"):
        from microedr_chassis.bus.memory import MemoryBus  # noqa: PLC0415 - see above

        return MemoryBus()
    if scheme == "sqlite" and rest:
        from microedr_chassis.bus.sqlite import SqliteBus  # noqa: PLC0415 - see above

        return SqliteBus(_sqlite_path(url, rest))
    if scheme == "kafka":
        from microedr_chassis.bus.kafka import KafkaBus  # noqa: PLC0415 - see above

        servers, session_timeout_s = _kafka_servers(url)
        return KafkaBus(servers, session_timeout_s=session_timeout_s)
    raise SettingsError(f"{VARIABLE}: {_shown(url)!r} is not a bus; allowed are {_ALLOWED}")


def _sqlite_path(url: str, rest: str) -> Path:
    if rest.startswith("//") and not rest.startswith("///"):
        raise SettingsError(f"{VARIABLE}: {_shown(url)!r} names a host; sqlite needs sqlite:///path or sqlite:path")
    path = Path(unquote(rest.removeprefix("//")))
    if path.is_dir() or path == Path("/"):
        raise SettingsError(f"{VARIABLE}: {path} is a directory; the name of a file is needed")
    return path


def _kafka_servers(url: str) -> tuple[str, float]:
    """Bootstrap servers, and the session timeout in seconds."""
    parts = urlsplit(url)
    servers = [server for server in parts.netloc.split(",") if server]
    if not servers or parts.path not in ("", "/") or "@" in parts.netloc:
        raise SettingsError(f"{VARIABLE}: kafka needs kafka://host:port,host:port")
    for server in servers:
        host, separator, port = server.rpartition(":")
        if not (separator and host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise SettingsError(f"{VARIABLE}: {server!r} is not host:port")
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    timeout = options.pop("session_timeout_s", "45")
    if options:
        raise SettingsError(f"{VARIABLE}: unknown option {min(options)}; allowed is session_timeout_s")
    try:
        session_timeout_s = float(timeout)
    except ValueError:
        session_timeout_s = 0.0
    if not 1 <= session_timeout_s <= 300:  # noqa: PLR2004 - said in the error
        raise SettingsError(f"{VARIABLE}: session_timeout_s is {timeout!r}; allowed are 1 to 300 seconds")
    return ",".join(servers), session_timeout_s


def _shown(url: str) -> str:
    """What an error may repeat of the URL: nothing that could be a password."""
    return url.rsplit("@", maxsplit=1)[-1][:200]
