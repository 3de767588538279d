"""Every event passes once, and every missing one is counted, however frames are cut and repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr import headers
from microedr_chassis.bus.api import ConsumedRecord, TopicPartition
from microedr_chassis.errors import DeadLetterError
from microedr_chassis.highwater import HighWater


def frame(  # noqa: PLR0913 - a header each
    first: int, last: int, *, host: str = "a", epoch: str = "e", lane: int = 0, partition: int = 0
) -> ConsumedRecord:
    return ConsumedRecord(
        "t",
        partition,
        0,
        0,
        b"a",
        b"",
        {
            headers.HOST: host.encode(),
            headers.EPOCH: epoch.encode(),
            headers.LANE: b"%d" % lane,
            headers.FIRST_SEQ: b"%d" % first,
            headers.LAST_SEQ: b"%d" % last,
        },
    )


def test_frames_in_a_row_are_new_throughout() -> None:
    water = HighWater()

    assert [water.admit(frame(*f)).first_new for f in ((1, 10), (11, 11), (12, 30))] == [0, 0, 0]


def test_a_repeated_frame_is_all_duplicate() -> None:
    water = HighWater()
    water.admit(frame(1, 10))

    again = water.admit(frame(1, 10))

    assert again.all_duplicate
    assert (again.first_new, again.gap) == (10, 0)


def test_an_overlapping_frame_is_new_from_its_middle() -> None:
    water = HighWater()
    water.admit(frame(1, 10))

    overlap = water.admit(frame(8, 12))

    assert (overlap.first_new, overlap.all_duplicate) == (3, False)


def test_a_gap_is_counted() -> None:
    water = HighWater()
    water.admit(frame(1, 10))

    assert water.admit(frame(15, 20)).gap == 4


def test_a_sequence_met_in_its_middle_has_no_gap() -> None:
    assert HighWater().admit(frame(500, 510)).gap == 0


@pytest.mark.parametrize("other", [{"host": "b"}, {"epoch": "f"}, {"lane": 1}, {"partition": 1}])
def test_sequences_of_another_host_epoch_lane_or_partition_are_apart(other: dict[str, object]) -> None:
    water = HighWater()
    water.admit(frame(1, 10))

    assert water.admit(frame(1, 10, **other)).first_new == 0  # type: ignore[arg-type]


def test_looking_remembers_nothing() -> None:
    water = HighWater()
    water.look(frame(1, 10))

    assert water.look(frame(1, 10)).first_new == 0


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    water = HighWater(max_entries=2)
    for host in ("a", "b", "a", "c"):
        water.admit(frame(1, 1, host=host))

    assert (len(water), water.evicted_total) == (2, 1)
    assert water.look(frame(1, 1, host="a")).all_duplicate
    assert not water.look(frame(1, 1, host="b")).all_duplicate


def test_partitions_that_leave_are_forgotten() -> None:
    water = HighWater()
    water.admit(frame(1, 10, partition=0))
    water.admit(frame(1, 10, partition=1))

    water.forget([TopicPartition("t", 0)])

    assert not water.look(frame(1, 10, partition=0)).all_duplicate
    assert water.look(frame(1, 10, partition=1)).all_duplicate


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({headers.FIRST_SEQ: b"x"}, id="no number"),
        pytest.param({headers.FIRST_SEQ: b"0"}, id="sequence 0"),
        pytest.param({headers.LAST_SEQ: b"1"}, id="ends before it begins"),
        pytest.param({headers.HOST: b"\xff"}, id="not ASCII"),
        pytest.param({headers.LANE: None}, id="missing"),
    ],
)
def test_a_record_without_good_headers_is_a_dead_letter(broken: dict[str, bytes | None]) -> None:
    good = frame(2, 3)
    damaged = {k: v for k, v in {**good.headers, **broken}.items() if v is not None}

    with pytest.raises(DeadLetterError) as caught:
        HighWater().admit(ConsumedRecord("t", 0, 0, 0, b"a", b"", damaged))

    assert caught.value.reason == "bad_headers"


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12)), max_size=40))
def test_each_sequence_passes_at_most_once_and_gaps_add_up(cuts: list[tuple[int, int]]) -> None:
    water, passed, gaps = HighWater(), [], 0
    for first, more in cuts:
        admission = water.admit(frame(first, first + more))
        passed += list(range(first + admission.first_new, first + more + 1))
        gaps += admission.gap

    assert passed == sorted(set(passed))
    if passed:
        assert gaps == passed[-1] - passed[0] + 1 - len(passed)
