"""Alerts and requests become signed orders, once, whatever restarts; a responder accepts exactly those."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from microedr.v1.action_pb2 import Action, ActionState, ActionType, ActionUpdate, ProcessTarget
from microedr_actioner.app import ActionerService
from microedr_actioner.settings import ActionerSettings
from microedr_agent.responder import action as order_module
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.verify import Identity, verify_action
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.metrics import MetricRegistry
from microedr_chassis.settings import load_settings
from support.alerts import RULE, AlertOf, record_about, session_of
from support.orders import HOST, NONCE, SECOND_NS, TENANT

_PARTITIONS = 2


@dataclass
class _Rig:
    path: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    now_unix_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        self.bus = MemoryBus(self.broker)
        self.registry = MetricRegistry()

    def settings(self, **overrides: object) -> ActionerSettings:
        given = {"bus": "memory:", "signing_key_file": self.path / "key", "auto_rules": (RULE,), **overrides}
        return load_settings(ActionerSettings, **given)

    @asynccontextmanager
    async def running(self, **overrides: object) -> AsyncIterator[ActionerService]:
        service = ActionerService(
            self.settings(**overrides),
            bus=self.bus,
            metrics=self.registry.for_service("actioner"),
            clock_unix_ns=lambda: self.now_unix_ns,
        )
        await service.start()
        serving = asyncio.create_task(service.serve())
        try:
            yield service
        finally:
            await service.stop()
            await serving

    async def publish(self, *records: Record) -> None:
        for record in records:
            await self.bus.publish(record)

    async def updates(self) -> list[ActionUpdate]:
        tail = await self.bus.tail([topics.ACTIONS], since_unix_ms=0)
        found: list[ActionUpdate] = []
        while batch := await tail.fetch(max_records=500, timeout_s=0.05):
            found += [ActionUpdate.FromString(record.value) for record in batch]
        await tail.close()
        return sorted(found, key=lambda update: update.at_unix_ns)

    async def until(self, condition: Callable[[Sequence[ActionUpdate]], bool]) -> list[ActionUpdate]:
        async with asyncio.timeout(10):
            while not condition(found := await self.updates()):  # noqa: ASYNC110 - the condition reads the bus
                await asyncio.sleep(0.02)
        return found

    def alert(self, **changes: object) -> AlertOf:
        return replace(AlertOf(event_unix_ns=self.now_unix_ns - SECOND_NS), **changes)  # type: ignore[arg-type]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[_Rig]:
    rig = _Rig(tmp_path)
    await rig.bus.start()
    await rig.bus.ensure_topics(topics.catalogue(_PARTITIONS))
    yield rig
    await rig.bus.close()


def _states(updates: Sequence[ActionUpdate]) -> list[str]:
    return [ActionState.Name(u.state).removeprefix("ACTION_STATE_") for u in updates]


def _ends_with(state: str) -> Callable[[Sequence[ActionUpdate]], bool]:
    return lambda updates: state in _states(updates)


class _NothingStarted:
    def was_started(self, _action: order_module.Action) -> bool:
        return False


async def test_an_alert_becomes_an_order_that_the_responder_accepts(rig: _Rig) -> None:
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(rig.alert().build()))

    async with rig.running() as service:
        updates = await rig.until(_ends_with("SIGNED"))

    assert _states(updates) == ["APPROVED", "SIGNED"]
    accepted = verify_action(
        updates[1].signed.SerializeToString(),
        keyring=Keyring([service.public_key]),
        allowed_types={order_module.ActionType.KILL_PROCESS},
        identity=Identity(TENANT, HOST, NONCE),
        now_unix_ns=rig.now_unix_ns,
        started=_NothingStarted(),
    )
    assert (accepted.action_id, accepted.process.pid) == (updates[0].action_id, 4242)
    assert Action.FromString(accepted.raw).approved_by == [f"rule:{RULE}"]


async def test_a_replayed_alert_is_signed_once_also_after_a_restart(rig: _Rig) -> None:
    alert = record_about(rig.alert().build())
    await rig.publish(record_about(session_of(rig.now_unix_ns)), alert, alert)
    async with rig.running():
        await rig.until(_ends_with("SIGNED"))
    await rig.publish(alert)
    async with rig.running():
        await rig.publish(record_about(rig.alert(alert_id="alert-2").build()))
        updates = await rig.until(lambda found: _states(found).count("SIGNED") == 2)

    assert _states(updates) == ["APPROVED", "SIGNED"] * 2
    orders = [Action.FromString(u.signed.action) for u in updates if u.HasField("signed")]
    assert orders[0].sequence < orders[1].sequence


async def test_an_approved_action_is_signed_by_whoever_comes_next(rig: _Rig) -> None:
    await rig.publish(record_about(rig.alert().build()))
    async with rig.running():
        await rig.until(_ends_with("APPROVED"))
    async with rig.running():
        await rig.publish(record_about(session_of(rig.now_unix_ns)))
        updates = await rig.until(_ends_with("SIGNED"))

    assert _states(updates) == ["APPROVED", "SIGNED"]


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        pytest.param(None, "host_offline", id="never seen"),
        pytest.param({"connected": False}, "host_offline", id="disconnected"),
        pytest.param({"nonce": b""}, "no_responder", id="no responder"),
    ],
)
async def test_an_action_waits_for_its_host_and_expires(
    rig: _Rig, session: dict[str, object] | None, reason: str
) -> None:
    if session is not None:
        await rig.publish(record_about(session_of(rig.now_unix_ns, **session)))  # type: ignore[arg-type]
    await rig.publish(record_about(rig.alert().build()))

    async with rig.running():
        await rig.until(_ends_with("APPROVED"))
        rig.now_unix_ns += 121 * SECOND_NS
        updates = await rig.until(_ends_with("EXPIRED"))

    assert _states(updates) == ["APPROVED", "EXPIRED"]
    assert updates[1].reason == reason


async def test_an_order_nobody_answers_expires(rig: _Rig) -> None:
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(rig.alert().build()))

    async with rig.running():
        await rig.until(_ends_with("SIGNED"))
        rig.now_unix_ns += 151 * SECOND_NS
        updates = await rig.until(_ends_with("EXPIRED"))

    assert updates[-1].reason == "not_answered"


async def test_an_answered_order_is_left_alone(rig: _Rig) -> None:
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(rig.alert().build()))

    async with rig.running():
        signed = (await rig.until(_ends_with("SIGNED")))[-1]
        answer = ActionUpdate()
        answer.CopyFrom(signed)
        answer.ClearField("signed")
        answer.state = ActionState.ACTION_STATE_EXECUTED
        await rig.publish(record_about(answer, topics.ACTION_RESULTS))
        await asyncio.sleep(0.3)
        rig.now_unix_ns += 200 * SECOND_NS
        await rig.publish(record_about(session_of(rig.now_unix_ns)))
        await rig.publish(record_about(rig.alert(alert_id="alert-2").build()))
        updates = await rig.until(lambda found: _states(found).count("SIGNED") == 2)

    assert "EXPIRED" not in _states(updates)


async def test_a_rule_that_acts_too_widely_is_disarmed_until_a_person_looks(rig: _Rig) -> None:
    for number in range(4):
        host_id = f"host-{number}"
        await rig.publish(record_about(session_of(rig.now_unix_ns, host_id=host_id)))
    alerts = [record_about(rig.alert(alert_id=f"alert-{n}", host_id=f"host-{n}").build()) for n in range(4)]
    async with rig.running(brake_max_hosts=2):
        await rig.publish(*alerts[:3])
        updates = await rig.until(_ends_with("REFUSED"))
    assert _states(updates).count("APPROVED") == 2
    assert [u.reason for u in updates if u.state == ActionState.ACTION_STATE_REFUSED] == ["brake"]
    assert rig.registry.for_service("actioner").value(catalogue.RULES_DISARMED) == 1

    async with rig.running(brake_max_hosts=100):
        await rig.publish(alerts[3])
        updates = await rig.until(lambda found: _states(found).count("REFUSED") == 2)
    assert _states(updates).count("APPROVED") == 2

    rig.now_unix_ns += SECOND_NS
    async with rig.running(brake_max_hosts=100, rearmed_at_unix_s=rig.now_unix_ns / SECOND_NS):
        await rig.publish(record_about(rig.alert(alert_id="alert-9", host_id="host-3").build()))
        await rig.until(lambda found: _states(found).count("APPROVED") == 3)


def _request(rig: _Rig, **changes: object) -> ActionUpdate:
    fields: dict[str, object] = {
        "action_id": "00000000-0000-0000-0000-000000000001",
        "tenant_id": TENANT,
        "host_id": HOST,
        "state": ActionState.ACTION_STATE_REQUESTED,
        "at_unix_ns": rig.now_unix_ns,
        "type": ActionType.ACTION_TYPE_KILL_PROCESS,
        "process": ProcessTarget(pid=9, process_uid=b"p" * 16, start_boot_ns=1),
        "actor": "user:ann",
        **changes,
    }
    return ActionUpdate(**fields)  # type: ignore[arg-type]


async def test_a_request_is_approved_and_signed(rig: _Rig) -> None:
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(_request(rig)))

    async with rig.running(auto_rules=()):
        updates = await rig.until(_ends_with("SIGNED"))

    order = Action.FromString(updates[-1].signed.action)
    assert _states(updates) == ["REQUESTED", "APPROVED", "SIGNED"]
    assert (order.reason, list(order.approved_by)) == ("request:ann", ["user:ann"])


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        pytest.param({"type": ActionType.ACTION_TYPE_ISOLATE_EGRESS}, "REFUSED", "not_supported", id="other type"),
        pytest.param({"process": ProcessTarget(pid=1)}, "REFUSED", "no_target", id="no target"),
        pytest.param({"at_unix_ns": 1}, "EXPIRED", "too_old", id="long ago"),
    ],
)
async def test_a_request_with_a_flaw_is_answered(
    rig: _Rig, changes: dict[str, object], state: str, reason: str
) -> None:
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(_request(rig, **changes)))

    async with rig.running():
        updates = await rig.until(_ends_with(state))

    assert updates[-1].reason == reason
    assert "SIGNED" not in _states(updates)


async def test_an_update_that_names_another_host_than_its_headers_is_buried(rig: _Rig) -> None:
    forged = record_about(_request(rig, host_id="host-b"))
    await rig.publish(replace(forged, key=HOST.encode(), headers=record_about(_request(rig)).headers))
    await rig.publish(record_about(session_of(rig.now_unix_ns)), record_about(rig.alert().build()))

    async with rig.running():
        updates = await rig.until(_ends_with("SIGNED"))

    assert {u.host_id for u in updates if u.state != ActionState.ACTION_STATE_REQUESTED} == {HOST}
    buried = rig.registry.for_service("actioner")
    assert buried.value(catalogue.RECORDS_DEAD_LETTERED, topic=topics.ACTIONS, reason="bad_headers") == 1


async def test_two_actioners_sign_each_action_once(rig: _Rig) -> None:
    hosts = [f"host-{n}" for n in range(6)]
    await rig.publish(*(record_about(session_of(rig.now_unix_ns, host_id=host)) for host in hosts))
    alerts = [rig.alert(alert_id=f"a-{host}", host_id=host) for host in hosts]

    async with rig.running(member="one", brake_max_hosts=50), rig.running(member="two", brake_max_hosts=50):
        await rig.publish(*(record_about(alert.build()) for alert in alerts))
        updates = await rig.until(lambda found: _states(found).count("SIGNED") >= len(hosts))

    signed = [u.action_id for u in updates if u.HasField("signed")]
    assert len(signed) == len(set(signed)) == len(hosts)
