"""Only fresh alerts of armed built-in rules act on their own, and none acts too widely."""

from dataclasses import replace

import pytest

from microedr.v1.action_pb2 import ActionType, ProcessTarget
from microedr_actioner.brake import Brake, BrakeLimits, Taken
from microedr_actioner.policy import Arming, objection, propose
from support.alerts import RULE, AlertOf
from support.orders import NOW_UNIX_NS, SECOND_NS

_ARMED = Arming(every_builtin=False, rules={RULE}, max_event_age_s=60)
_ALL = Arming(every_builtin=True, rules=(), max_event_age_s=60)
_NONE = Arming(every_builtin=False, rules=(), max_event_age_s=60)
_ALERT = AlertOf(event_unix_ns=NOW_UNIX_NS - SECOND_NS)


@pytest.mark.parametrize(
    ("alert", "arming", "count"),
    [
        pytest.param(_ALERT, _ARMED, 1, id="armed by name"),
        pytest.param(_ALERT, _ALL, 1, id="armed with all"),
        pytest.param(_ALERT, _NONE, 0, id="not armed"),
        pytest.param(replace(_ALERT, rule_id="other"), _ARMED, 0, id="another rule is armed"),
        pytest.param(replace(_ALERT, builtin=False), _ALL, 0, id="community rule"),
        pytest.param(replace(_ALERT, builtin=False), _ARMED, 0, id="community rule with an armed name"),
        pytest.param(replace(_ALERT, confidence=0.89), _ALL, 0, id="below its threshold"),
        pytest.param(replace(_ALERT, threshold=0.89, confidence=1.0), _ALL, 0, id="a threshold that may not arm"),
        pytest.param(replace(_ALERT, threshold=0.0, confidence=1.0), _ALL, 0, id="only when asked"),
        pytest.param(replace(_ALERT, threshold=float("nan"), confidence=1.0), _ALL, 0, id="no number"),
        pytest.param(replace(_ALERT, event_unix_ns=NOW_UNIX_NS - 61 * SECOND_NS), _ALL, 0, id="old evidence"),
    ],
)
def test_what_may_act_on_its_own(alert: AlertOf, arming: Arming, count: int) -> None:
    assert len(list(propose(alert.build(), arming, now_unix_ns=NOW_UNIX_NS))) == count


def test_a_replayed_alert_proposes_the_same_action() -> None:
    first = list(propose(_ALERT.build(), _ARMED, now_unix_ns=NOW_UNIX_NS))
    again = list(propose(_ALERT.build(), _ARMED, now_unix_ns=NOW_UNIX_NS + SECOND_NS))

    assert first == again


@pytest.mark.parametrize(
    ("kind", "process", "reason"),
    [
        pytest.param(1, ProcessTarget(pid=9, process_uid=b"p" * 16, start_boot_ns=1), None, id="whole"),
        pytest.param(2, ProcessTarget(pid=9, process_uid=b"p" * 16, start_boot_ns=1), "not_supported", id="isolate"),
        pytest.param(1, ProcessTarget(pid=1, process_uid=b"p" * 16, start_boot_ns=1), "no_target", id="pid 1"),
        pytest.param(1, ProcessTarget(pid=9, process_uid=b"p", start_boot_ns=1), "no_target", id="no process_uid"),
        pytest.param(1, ProcessTarget(pid=9, process_uid=b"p" * 16), "no_target", id="no start"),
    ],
)
def test_what_can_never_be_ordered(kind: ActionType.ValueType, process: ProcessTarget, reason: str | None) -> None:
    assert objection(kind, process) == reason


def _brake() -> Brake:
    return Brake(BrakeLimits(window_s=60, max_hosts=2, max_executables=2, max_actions=4))


def _taken(number: int, *, host: str = "a", exe: str = "/x", at_s: int = 0) -> Taken:
    return Taken(str(number), ("acme", host), exe, NOW_UNIX_NS + at_s * SECOND_NS)


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param([_taken(n, host=str(n)) for n in range(3)], id="hosts"),
        pytest.param([_taken(n, exe=str(n)) for n in range(3)], id="executables"),
        pytest.param([_taken(n) for n in range(5)], id="actions"),
    ],
)
def test_one_too_many_disarms_the_rule_for_good(actions: list[Taken]) -> None:
    brake = _brake()

    assert [brake.admit("r", action) for action in actions] == [True] * (len(actions) - 1) + [False]
    assert brake.disarmed == {"r"}
    assert not brake.admit("r", _taken(99, at_s=3600))
    assert brake.admit("other", _taken(100))


def test_what_lies_outside_the_window_does_not_count() -> None:
    brake = _brake()

    assert all(brake.admit("r", _taken(n, host=str(n), at_s=61 * n)) for n in range(6))


def test_a_replay_counts_once() -> None:
    brake = _brake()

    assert all(brake.admit("r", _taken(1)) for _ in range(10))


def test_what_others_decided_counts_too() -> None:
    brake = _brake()
    for number in range(4):
        brake.record("r", _taken(number))

    assert not brake.admit("r", _taken(9))
