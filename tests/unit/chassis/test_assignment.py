"""Partitions are shared fairly, move as little as they can, and together where they belong together."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.assignment import assign

EVENTS = [TopicPartition("events", number) for number in range(6)]
MATCHES = [TopicPartition("matches", number) for number in range(6)]


def members(*names: str) -> dict[str, frozenset[str]]:
    return {name: frozenset({"events", "matches"}) for name in names}


def test_one_member_gets_everything() -> None:
    assert assign(members("a"), EVENTS, {}, co_partitioned=False) == dict.fromkeys(EVENTS, "a")


def test_nobody_gets_what_nobody_subscribes_to() -> None:
    assert assign({"a": frozenset({"events"})}, EVENTS + MATCHES, {}, co_partitioned=False) == dict.fromkeys(
        EVENTS, "a"
    )
    assert assign({}, EVENTS, {}, co_partitioned=False) == {}


def test_a_newcomer_takes_only_its_share() -> None:
    before = assign(members("a", "b"), EVENTS, {}, co_partitioned=False)
    after = assign(members("a", "b", "c"), EVENTS, before, co_partitioned=False)

    assert Counter(after.values()) == {"a": 2, "b": 2, "c": 2}
    assert sum(before[source] != after[source] for source in EVENTS) == 2


def test_what_a_leaver_had_is_shared_and_nothing_else_moves() -> None:
    before = assign(members("a", "b", "c"), EVENTS, {}, co_partitioned=False)
    left = {source: owner for source, owner in before.items() if owner != "c"}
    after = assign(members("a", "b"), EVENTS, left, co_partitioned=False)

    assert Counter(after.values()) == {"a": 3, "b": 3}
    assert all(after[source] == owner for source, owner in left.items())


def test_co_partitioned_numbers_go_to_one_member() -> None:
    found = assign(members("a", "b"), EVENTS + MATCHES, {}, co_partitioned=True)

    assert all(found[event] == found[match] for event, match in zip(EVENTS, MATCHES, strict=True))
    assert Counter(found.values()) == {"a": 6, "b": 6}


@given(
    names=st.sets(st.sampled_from("abcdefg"), min_size=1),
    owners=st.dictionaries(st.sampled_from(EVENTS + MATCHES), st.sampled_from("abcdefg")),
    co_partitioned=st.booleans(),
)
def test_whatever_was_before_everything_has_one_owner_and_a_second_look_changes_nothing(
    *, names: set[str], owners: dict[TopicPartition, str], co_partitioned: bool
) -> None:
    found = assign(members(*names), EVENTS + MATCHES, owners, co_partitioned=co_partitioned)
    shares = Counter(found.values())
    loads = [shares[name] for name in names]

    assert found.keys() == set(EVENTS + MATCHES)
    assert max(loads) - min(loads) <= (2 if co_partitioned else 1)
    assert assign(members(*names), EVENTS + MATCHES, found, co_partitioned=co_partitioned) == found


@pytest.mark.parametrize("co_partitioned", [True, False])
def test_handing_over_one_by_one_ends_where_it_was_meant_to(*, co_partitioned: bool) -> None:
    sources = EVENTS + MATCHES
    owners = assign(members("a"), sources, {}, co_partitioned=co_partitioned)
    group = members("a", "b", "c")
    for _ in range(len(sources)):
        target = assign(group, sources, owners, co_partitioned=co_partitioned)
        moving = [source for source in sources if owners.get(source) not in (None, target[source])]
        if not moving:
            break
        del owners[moving[0]]
    target = assign(group, sources, owners, co_partitioned=co_partitioned)

    assert Counter(target.values()) == {"a": 4, "b": 4, "c": 4}
