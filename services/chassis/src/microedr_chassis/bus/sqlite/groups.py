"""The consumer groups inside a bus file: who is a member, who owns what, where each group goes on.

Every function is one step within the transaction that is open. A change that others must act on
raises the group's version; every reader compares it.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.assignment import assign
from microedr_chassis.bus.local import Bounds, Membership, Plan
from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.errors import BusFencedError


def version(file: LogFile, group: str) -> int:
    """Of the group's state; 0 when nobody ever joined."""
    row = file.connection.execute("SELECT version FROM groups WHERE name = ?", (group,)).fetchone()
    return int(row[0]) if row is not None else 0


def _changed(file: LogFile, group: str) -> None:
    file.connection.execute(
        "INSERT INTO groups VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET version = version + 1", (group,)
    )


def join(file: LogFile, membership: Membership, session: str) -> None:
    """Add the member; whoever had its name is out.

    Raises:
        BusTopicError: A topic does not exist.
    """
    for topic in membership.topics:
        file.logs_of(topic)
    _remove(file, membership.group, membership.member)
    file.connection.execute(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?)",
        (membership.group, membership.member, membership.incarnation, session, json.dumps(membership.topics)),
    )
    _changed(file, membership.group)


def leave(file: LogFile, membership: Membership) -> None:
    """Remove the member and free what it owns; nothing happens when it is out already."""
    if _is_member(file, membership):
        _remove(file, membership.group, membership.member)
        _changed(file, membership.group)


def _remove(file: LogFile, group: str, member: str) -> None:
    file.connection.execute("DELETE FROM members WHERE grp = ? AND member = ?", (group, member))
    file.connection.execute("DELETE FROM owners WHERE grp = ? AND member = ?", (group, member))


def reap(file: LogFile, is_alive: Callable[[str], bool]) -> set[str]:
    """Remove the members of dead sessions; the groups that changed."""
    changed = set()
    for (session,) in file.connection.execute("SELECT DISTINCT session FROM members").fetchall():
        if is_alive(session):
            continue
        rows = file.connection.execute("SELECT grp, member FROM members WHERE session = ?", (session,)).fetchall()
        for group, member in rows:
            _remove(file, group, member)
            _changed(file, group)
            changed.add(group)
    return changed


def _is_member(file: LogFile, membership: Membership) -> bool:
    row = file.connection.execute(
        "SELECT incarnation FROM members WHERE grp = ? AND member = ?", (membership.group, membership.member)
    ).fetchone()
    return row is not None and row[0] == membership.incarnation


def plan(file: LogFile, membership: Membership) -> Plan:
    """What the member owns, and what of it another is to have.

    Raises:
        BusFencedError: Another goes by its name.
    """
    return _plan(file, membership)[0]


def _plan(file: LogFile, membership: Membership) -> tuple[Plan, set[TopicPartition], dict[TopicPartition, str]]:
    """The plan, what is to be the member's, and all owners."""
    if not _is_member(file, membership):
        raise BusFencedError(f"member {membership.member} of group {membership.group} was replaced")
    group = membership.group
    rows = file.connection.execute("SELECT member, topics FROM members WHERE grp = ?", (group,))
    members = {member: frozenset(json.loads(topics)) for member, topics in rows}
    every = {
        file.source_of(log): log
        for topic in sorted(frozenset().union(*members.values()))
        for log in file.logs_of(topic)
    }
    sources = {log: source for source, log in every.items()}
    rows = file.connection.execute("SELECT log, member FROM owners WHERE grp = ?", (group,))
    owners = {sources[log]: member for log, member in rows if log in sources}
    target = assign(members, list(every), owners, co_partitioned=membership.co_partitioned)
    owned = frozenset(source for source, owner in owners.items() if owner == membership.member)
    wanted = {source for source, owner in target.items() if owner == membership.member}
    return Plan(version(file, group), owned, owned - wanted), wanted, owners


def settle(file: LogFile, membership: Membership, give_up: frozenset[TopicPartition]) -> Plan:
    """Free ``give_up``, then take everything that is free and to be the member's.

    Raises:
        BusFencedError: Another goes by its name.
    """
    group, member = membership.group, membership.member
    if give_up:
        file.connection.executemany(
            "DELETE FROM owners WHERE grp = ? AND log = ? AND member = ?",
            [(group, file.log_of(source), member) for source in give_up],
        )
        _changed(file, group)
    _, wanted, owners = _plan(file, membership)
    # Partitions that belong together are taken together, when the last of them is free.
    busy = {source.partition for source in wanted if owners.get(source, member) != member}
    free = [
        source
        for source in wanted
        if source not in owners and not (membership.co_partitioned and source.partition in busy)
    ]
    file.connection.executemany(
        "INSERT INTO owners VALUES (?, ?, ?)", [(group, file.log_of(source), member) for source in free]
    )
    return _plan(file, membership)[0]


def commit(file: LogFile, membership: Membership, next_offsets: Mapping[TopicPartition, int]) -> None:
    """Remember the offsets of what the member owns, leave out the rest."""
    if not _is_member(file, membership):
        return
    file.connection.executemany(
        "INSERT INTO offsets SELECT grp, log, ? FROM owners WHERE grp = ? AND log = ? AND member = ?"
        " ON CONFLICT (grp, log) DO UPDATE SET next_offset = excluded.next_offset",
        [(offset, membership.group, file.log_of(source), membership.member) for source, offset in next_offsets.items()],
    )


def bounds(file: LogFile, group: str, sources: Sequence[TopicPartition]) -> dict[TopicPartition, Bounds]:
    """What each log holds and where the group stands in it."""
    ends = file.ends()
    committed = dict(file.connection.execute("SELECT log, next_offset FROM offsets WHERE grp = ?", (group,)))
    logs = {source: file.log_of(source) for source in sources}
    return {source: Bounds(file.first(log), ends[log], committed.get(log)) for source, log in logs.items()}


def unread_from(file: LogFile, topic: str, log: int) -> int:
    """Where the slowest group with living members stands in ``log``; the end when there is none."""
    end = file.ends()[log]
    rows = file.connection.execute("SELECT grp, topics FROM members").fetchall()
    groups = {group for group, topics in rows if topic in json.loads(topics)}
    committed = dict(file.connection.execute("SELECT grp, next_offset FROM offsets WHERE log = ?", (log,)))
    return min((committed.get(group, 0) for group in groups), default=end)
