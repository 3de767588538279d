"""One sentence for a person: which process did it, as whom, started by whom, and where it connected to."""

from microedr.v1.detection_pb2 import Alert, Entities
from microedr_correlator.kinship import basename

_MAX_CMDLINE_CHARS = 160


def sentence(alert: Alert) -> str:
    """The summary of a finished alert."""
    who = alert.entities
    parts = [alert.rule.title or alert.rule.rule_id, ": ", basename(who.exe), f" (pid {who.pid}"]
    parts.append(f", user {who.user})" if who.user else ")")
    if who.parent_exe:
        parts.append(f", started by {basename(who.parent_exe)}")
    if who.cmdline:
        parts.append(f", ran: {_shortened(who.cmdline)}")
    if who.dst_ip:
        parts.append(f"; it connected to {_endpoint(who)}")
    if who.container_id:
        parts.append(f"; in container {who.container_id[:12]}")
    if alert.match_count > 1:
        parts.append(f"; {alert.match_count:,} matches")
    return "".join(parts)


def overflow_sentence(count: int) -> str:
    """The summary of an alert that stands for those above the limit."""
    matches = "match" if count == 1 else "matches"
    return f"limit reached: {count:,} more {matches} of this rule on this host"


def _endpoint(who: Entities) -> str:
    return f"[{who.dst_ip}]:{who.dst_port}" if ":" in who.dst_ip else f"{who.dst_ip}:{who.dst_port}"


def _shortened(cmdline: str) -> str:
    # What a person reads must not be able to move their cursor.
    text = "".join(c if c.isprintable() else " " for c in cmdline)
    return text if len(text) <= _MAX_CMDLINE_CHARS else text[: _MAX_CMDLINE_CHARS - 1] + "…"
