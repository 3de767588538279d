"""The agent's settings: what agent.yaml may say, with bounds and reasons.

Each value is declared once, here; ``config_sources`` reads them from flags, environment and files
and knows where each came from. Key material is never a setting: files are named, not quoted.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from microedr.limits import (
    MAX_BATCH_EVENTS,
    MAX_EVENT_BYTES,
    MAX_FRAME_AGE_S,
    MAX_FRAME_EVENTS,
    MAX_FRAME_RAW_BYTES,
    MAX_MESSAGE_BYTES,
    TARGET_FRAME_RAW_BYTES,
)
from microedr_agent import config_rules as rules
from microedr_agent.log import LEVELS, Level

_ROOT = 0
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_FIRST_DYNAMIC_UID = 61480
"""Within the range that systemd hands to dynamic users (61184-65519): no login account lives there."""

ACTION_WORDS = ("kill_process", "isolate_egress", "quarantine_file")
_BATCH_BYTES = rules.integer(MAX_EVENT_BYTES, MAX_MESSAGE_BYTES, "bytes")


def by(rule: rules.Rule) -> Mapping[str, rules.Rule]:
    """Metadata of a field: the rule that reads it."""
    return {"rule": rule}


def key(name: str) -> Mapping[str, str]:
    """Metadata of a section whose name in agent.yaml is not the attribute's."""
    return {"key": name}


def read_trusted_file(path: Path) -> str:
    """The text of a file that decides what root does.

    Raises:
        ValueError: It cannot be read, or somebody else may write it while this process is root.
    """
    try:
        with path.open(encoding="utf-8") as opened:
            status = os.fstat(opened.fileno())
            if os.geteuid() == _ROOT and (status.st_uid != _ROOT or status.st_mode & _WRITABLE_BY_OTHERS):
                raise ValueError(f"{path} must belong to root and be writable by nobody else")
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{path}: {reason}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class MtlsConfig:
    """Files that prove who this host is and who ingest is; read again at each connect."""

    cert_file: Path = field(metadata=by(rules.path()))
    key_file: Path = field(metadata=by(rules.path()))
    """Readable by the uploader's user, or by root alone: then it is opened before root is given up."""
    ca_file: Path = field(metadata=by(rules.path()))
    """The only authorities trusted to vouch for ingest; the host's own trust store is never asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """The one server the agent speaks to."""

    url: str = field(metadata=by(rules.url()))
    mtls: MtlsConfig = field(metadata=key("mTLS"))

    @property
    def target(self) -> str:
        """``host:port`` for a gRPC channel."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return f"[{host}]:{parts.port or 443}" if ":" in host else f"{host}:{parts.port or 443}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """The durable queue on disk."""

    dir: Path = field(default=Path("/var/lib/microedr/spool"), metadata=by(rules.path()))
    max_mb: int = field(default=2048, metadata=by(rules.integer(1, 1 << 20, "MiB")))
    """When full, the oldest segment is given up and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """How events are grouped into frames."""

    batch_max_events: int = field(default=MAX_FRAME_EVENTS, metadata=by(rules.integer(1, MAX_BATCH_EVENTS, "events")))
    batch_max_bytes: int = field(default=TARGET_FRAME_RAW_BYTES, metadata=by(_BATCH_BYTES))
    """Before compression. See ``frame_raw_bytes``."""
    flush_interval_sec: float = field(default=MAX_FRAME_AGE_S, metadata=by(rules.number(0.05, 60, "seconds")))
    gzip: bool = field(default=True, metadata=by(rules.flag()))
    """Accepted for older files. It changes nothing: frames are always sealed with zstd."""

    @property
    def frame_raw_bytes(self) -> int:
        """The size at which a frame is sealed: leaves room for one more event of the largest size."""
        return min(self.batch_max_bytes, MAX_FRAME_RAW_BYTES - MAX_EVENT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxCollectorsConfig:
    """What is collected from on Linux."""

    ebpf: bool = field(default=True, metadata=by(rules.flag()))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsCollectorsConfig:
    """What is collected from on Windows."""

    etw: bool = field(default=True, metadata=by(rules.flag()))


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorsConfig:
    """What is collected from."""

    linux: LinuxCollectorsConfig = field(default_factory=LinuxCollectorsConfig)
    windows: WindowsCollectorsConfig = field(default_factory=WindowsCollectorsConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsConfig:
    """What the responder may do. Local settings only ever narrow what a signature allows."""

    enabled: bool = field(default=False, metadata=by(rules.flag()))
    allow: tuple[str, ...] = field(default=(), metadata=by(rules.words(*ACTION_WORDS)))
    trusted_keys: tuple[bytes, ...] = field(default=(), metadata=by(rules.public_keys(read_trusted_file)))
    """Ed25519 public keys of the signers. With none, every order is refused."""
    protected: tuple[str, ...] = field(default=(), metadata=by(rules.words()))
    """Names or executables never to be killed, beside those that never are anyway."""
    max_kills_per_minute: int = field(default=10, metadata=by(rules.integer(1, 60, "kills")))
    """More orders than this are refused: a wrong rule or a stolen key ends a few processes, not a host."""

    @property
    def armed(self) -> bool:
        """Whether any order can be carried out at all."""
        return self.enabled and bool(self.trusted_keys) and bool(self.allow)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingsConfig:
    """Kernel ring buffers, KiB. Their mapping counts as memory of the sensor, twice over."""

    proc_kb: int = field(default=512, metadata=by(rules.power_of_two(64, 65536, "KiB")))
    net_kb: int = field(default=256, metadata=by(rules.power_of_two(64, 65536, "KiB")))
    file_kb: int = field(default=512, metadata=by(rules.power_of_two(64, 65536, "KiB")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAsConfig:
    """Numbers the sensor and the uploader run as once they need root no more. 0 keeps root: tests only."""

    sensor_uid: int = field(default=_FIRST_DYNAMIC_UID, metadata=by(rules.integer(0, 2**31 - 1)))
    uploader_uid: int = field(default=_FIRST_DYNAMIC_UID + 1, metadata=by(rules.integer(0, 2**31 - 1)))
    gid: int = field(default=_FIRST_DYNAMIC_UID, metadata=by(rules.integer(0, 2**31 - 1)))
    """Shared by both: the uploader reads the spool through it and cannot write there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All of agent.yaml."""

    tenant_id: str = field(metadata=by(rules.name()))
    host_id: str = field(metadata=by(rules.name()))
    ingest: IngestConfig
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    upload: UploadConfig = field(default_factory=UploadConfig)
    collectors: CollectorsConfig = field(default_factory=CollectorsConfig)
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    rings: RingsConfig = field(default_factory=RingsConfig)
    run_as: RunAsConfig = field(default_factory=RunAsConfig)
    run_dir: Path = field(default=Path("/run/microedr"), metadata=by(rules.path()))
    """Sockets of the three processes."""
    state_dir: Path = field(default=Path("/var/lib/microedr"), metadata=by(rules.path()))
    """What the responder must remember: intents, results, sequences."""
    log_level: Level = field(default="info", metadata=by(rules.choice(*LEVELS)))

    @property
    def sensor_socket(self) -> Path:
        """Where the sensor listens."""
        return self.run_dir / "sensor.sock"

    @property
    def responder_socket(self) -> Path:
        """Where the responder listens."""
        return self.run_dir / "responder.sock"
