"""Which boot of the host this is."""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """The kernel's name for this boot; with the host's id it is part of every process's name."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
