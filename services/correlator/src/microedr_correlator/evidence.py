"""Writes an alert: what matched, who did it, where they come from and where they connected to."""

from collections.abc import Iterable

from microedr.v1.detection_pb2 import Alert, Destination, Entities, Evidence, Match, ProcessNode
from microedr.v1.event_pb2 import AgentEvent, Process
from microedr_correlator.book import AlertState
from microedr_correlator.grouping import address_text
from microedr_correlator.kinship import destinations_of, exec_event_of, lineage, node_of, parent_told_by
from microedr_correlator.processes import ProcessEntry
from microedr_correlator.summary import overflow_sentence, sentence
from microedr_correlator.window import HostWindow

MAX_ALERT_BYTES = 768 * 1024
"""Serialised. The bus takes records of one MiB with their headers."""


def write_alert(state: AlertState, window: HostWindow | None, *, is_settled: bool = False) -> Alert:
    """The alert as it stands, with what ``window`` holds of its host at this moment.

    The revision follows from the number of matches, so that a replay counts alike; ``is_settled``
    gives the one between this number and the next.
    """
    match = Match.FromString(state.first_match)
    alert = Alert(
        alert_id=state.alert_id,
        revision=2 * state.match_count + is_settled,
        tenant_id=state.host.tenant_id,
        host_id=state.host.host_id,
        hostname=match.event.hostname or (window.hostname if window is not None else "") or state.host.host_id,
        rule=match.rule,
        title=match.rule.title or match.rule.rule_id,
        severity=match.rule.severity,
        confidence=match.rule.confidence,
        event_unix_ns=state.first_event_unix_ns,
        last_event_unix_ns=state.last_event_unix_ns,
        raised_unix_ns=state.raised_unix_ns,
        matched_unix_ns=match.matched_unix_ns,
        match_count=state.match_count,
        trace_id=match.trace_id,
        matched_fields=match.matched_fields,
    )
    _add_gaps(alert, state, window)
    for event in (match.event, *map(AgentEvent.FromString, state.further_events)):
        alert.evidence.append(Evidence(role="match", event=event))
    if state.is_overflow:
        # It stands for many processes: there is no one to show, and nothing to act on unasked.
        alert.folded_count = state.match_count
        alert.summary = overflow_sentence(state.match_count)
        del alert.rule.actions[:]
        alert.ClearField("matched_fields")
    else:
        _add_kinship(alert, match.event, window)
        alert.summary = sentence(alert)
    _cut(alert)
    return alert


def _add_gaps(alert: Alert, state: AlertState, window: HostWindow | None) -> None:
    gaps = [state.gaps] if state.gaps else []
    if window is None:
        gaps.append("nothing of this host is in the window")
    else:
        missing = window.gaps.describe(window.horizon_unix_ns)
        gaps.extend([missing] if missing else [])
    alert.evidence_gaps = "; ".join(gaps)
    alert.evidence_complete = not gaps


def _add_kinship(alert: Alert, event: AgentEvent, window: HostWindow | None) -> None:
    chain = lineage(window, event.process_uid) if window is not None else []
    nodes, oldest = _ancestry(chain, event)
    told = parent_told_by(nodes[-1], oldest) if nodes else None
    alert.ancestry.extend(nodes)
    if told is not None:
        alert.ancestry.append(told)
    shown = {item.event.event_id for item in alert.evidence}
    for entry in chain:
        exec_event = exec_event_of(alert.host_id, entry)
        if exec_event is not None and exec_event.event_id not in shown:
            shown.add(exec_event.event_id)
            alert.evidence.append(Evidence(role="ancestor", event=exec_event))
    if window is not None:
        alert.destinations.extend(destinations_of(window, chain))
    parent_exe = alert.ancestry[1].exe if len(alert.ancestry) > 1 else event.process.parent_exe
    alert.entities.CopyFrom(_entities(event, nodes[0] if nodes else ProcessNode(), parent_exe, alert.destinations))


def _ancestry(chain: list[ProcessEntry], event: AgentEvent) -> tuple[list[ProcessNode], Process]:
    """Nodes of ``chain`` with the matching process as the event tells it, and the block of the oldest."""
    nodes: list[ProcessNode] = []
    block = event.process
    for entry in chain:
        node, block = node_of(entry)
        nodes.append(node)
    if not nodes and event.process_uid:
        nodes.append(
            ProcessNode(
                process_uid=event.process_uid,
                pid=event.process.pid,
                ppid=event.process.ppid,
                start_unix_ns=event.process.start_unix_ns,
                parent_process_uid=event.process.parent_process_uid,
            )
        )
    if nodes and (event.HasField("proc_exec") or not nodes[0].exe):
        # It may have exec'd again since: an alert shows what the rule saw.
        nodes[0].exe = event.process.exe
        nodes[0].cmdline = event.process.cmdline
        nodes[0].user = event.process.user
    return nodes, block


def _entities(event: AgentEvent, node: ProcessNode, parent_exe: str, destinations: Iterable[Destination]) -> Entities:
    process = event.process
    entities = Entities(
        pid=process.pid or node.pid,
        process_uid=event.process_uid,
        exe=process.exe or node.exe,
        cmdline=node.cmdline or process.cmdline,
        user=process.user or node.user or (str(process.uid) if process.pid else ""),
        container_id=event.container.container_id,
        start_boot_ns=process.start_boot_ns,
        ppid=process.ppid or node.ppid,
        parent_exe=process.parent_exe or parent_exe,
    )
    if event.HasField("net_conn"):
        entities.dst_ip = address_text(event.net_conn.dst_ip)
        entities.dst_port = event.net_conn.dst_port
    else:
        own = next((d for d in destinations if d.process_uid == event.process_uid), None)
        if own is not None:
            entities.dst_ip, entities.dst_port = own.ip, own.port
    return entities


def _cut(alert: Alert) -> None:
    """Bring the alert below its size: the oldest ancestors' events go first, then further matches."""
    while alert.ByteSize() > MAX_ALERT_BYTES and len(alert.evidence) > 1:
        del alert.evidence[-1]
        alert.evidence_complete = False
        alert.evidence_gaps = alert.evidence_gaps or "evidence cut to the size of a record"
