"""Who of a group gets what: balanced, sticky and the same from whoever computes it.

Only the decision is here. Partitions change hands in ``memory`` and ``sqlite``: an owner first
gives up what is another's, then the other takes it, so that none ever has two owners.
"""

from collections.abc import Collection, Mapping, Sequence

from microedr_chassis.bus.api import TopicPartition


def assign(
    members: Mapping[str, Collection[str]],
    sources: Sequence[TopicPartition],
    owners: Mapping[TopicPartition, str],
    *,
    co_partitioned: bool,
) -> dict[TopicPartition, str]:
    """Who is to own each of ``sources``; one that nobody subscribes to is left out.

    Args:
        members: Topics of each member.
        sources: Every partition of these topics.
        owners: Who owns what now. Whoever has something keeps it while that is fair.
        co_partitioned: Give a member the same partition numbers of each topic.
    """
    target: dict[tuple[TopicPartition, ...], str] = {}
    load = dict.fromkeys(sorted(members), 0)
    free = []
    for unit in _units(sources, co_partitioned=co_partitioned):
        eligible = _eligible(unit, members)
        owner = next((owners[source] for source in unit if owners.get(source) in eligible), None)
        if owner is not None:
            target[unit] = owner
            load[owner] += len(unit)
        elif eligible:
            free.append(unit)
    for unit in free:
        target[unit] = min(_eligible(unit, members), key=lambda member: (load[member], member))
        load[target[unit]] += len(unit)
    _level(target, load, members)
    return {source: member for unit, member in target.items() for source in unit if source.topic in members[member]}


def _units(sources: Sequence[TopicPartition], *, co_partitioned: bool) -> list[tuple[TopicPartition, ...]]:
    """What can only move together, in a fixed order."""
    ordered = sorted(sources)
    if not co_partitioned:
        return [(source,) for source in ordered]
    numbers = sorted({source.partition for source in ordered})
    return [tuple(source for source in ordered if source.partition == number) for number in numbers]


def _eligible(unit: tuple[TopicPartition, ...], members: Mapping[str, Collection[str]]) -> list[str]:
    """Members that subscribe to something of ``unit``."""
    return sorted(member for member, topics in members.items() if any(source.topic in topics for source in unit))


def _level(
    target: dict[tuple[TopicPartition, ...], str], load: dict[str, int], members: Mapping[str, Collection[str]]
) -> None:
    """Move units from the fullest to the emptiest until no move helps.

    Ends: each move makes the sum of the squared loads smaller.
    """
    eligible = {unit: _eligible(unit, members) for unit in target}
    while True:
        moves = []
        for unit, giver in target.items():
            taker = min(eligible[unit], key=lambda member: (load[member], member))
            gain = load[giver] - load[taker] - len(unit)
            if gain > 0:
                moves.append((gain, unit, giver, taker))
        if not moves:
            return
        _, unit, giver, taker = max(moves)
        target[unit] = taker
        load[giver] -= len(unit)
        load[taker] += len(unit)
