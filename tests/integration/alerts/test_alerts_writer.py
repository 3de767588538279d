"""The writer's promise: each record counts once, in any order, for its own tenant; analysts' work stays."""

import asyncio
import uuid
from pathlib import Path

import pytest

from microedr.v1.action_pb2 import ActionState
from microedr_alerts import store
from microedr_alerts.changes import Principal, close_alert
from microedr_alerts.models import Action, AlertDetail
from microedr_alerts.postgres import Database
from microedr_alerts.projection import alert_change
from microedr_alerts.statements import LOCK_OUTBOX, STORE_ALERT
from microedr_alerts.target import Target
from microedr_alerts.writer import GROUP, AlertsWriter
from microedr_chassis.bus import topics
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.dead_letters import DeadLetterLimits, DeadLetters
from microedr_chassis.errors import DeadLetterError, RetryLaterError
from microedr_chassis.metrics import MetricRegistry
from support.alert_records import (
    HOST,
    NOW_UNIX_NS,
    TENANT,
    a_session,
    a_step,
    alert_uuid,
    an_alert,
    consumed,
)
from support.postgres import as_owner

PRINCIPAL = Principal("ann", TENANT, "192.0.2.1")


async def written(writer: AlertsWriter, *messages: object) -> None:
    for message in messages:
        await writer.consume(consumed(message))  # type: ignore[arg-type]
    await writer.flush()


async def stored_alert(database: Database, number: int = 1, tenant_id: str = TENANT) -> AlertDetail | None:
    async with database.transaction(tenant_id) as connection:
        return await store.find_alert(connection, uuid.UUID(alert_uuid(number)))


async def stored_action(database: Database, number: int = 1) -> Action:
    action_id = str(uuid.UUID(int=1000 + number))
    async with database.transaction(TENANT) as connection:
        return (await store.actions_by_id(connection, [action_id]))[action_id]


async def test_a_revision_replaces_only_a_lower_one(writer: AlertsWriter, database: Database) -> None:
    await written(writer, an_alert(revision=2, match_count=5, raised_unix_ns=NOW_UNIX_NS))
    await written(writer, an_alert(revision=1, match_count=1))
    await written(writer, an_alert(revision=3, match_count=9, raised_unix_ns=NOW_UNIX_NS + 10**9))

    alert = await stored_alert(database)
    assert alert is not None
    assert (alert.revision, alert.match_count) == (3, 9)
    assert alert.raised_unix_ns == NOW_UNIX_NS, "its place in the list stays"


async def test_the_highest_revision_of_one_batch_wins(writer: AlertsWriter, database: Database) -> None:
    await written(writer, *(an_alert(revision=revision, match_count=revision) for revision in (1, 4, 2)))

    alert = await stored_alert(database)
    assert alert is not None
    assert alert.match_count == 4


async def test_a_replay_changes_and_tells_nothing(writer: AlertsWriter, target: Target) -> None:
    everything = (an_alert(), a_session(), a_step(ActionState.ACTION_STATE_REQUESTED))
    await written(writer, *everything)
    tables = ("alerts", "hosts", "actions", "action_steps", "outbox")
    before = [await as_owner(target, f"TABLE {table}") for table in tables]

    await written(writer, *everything)
    await written(writer, *everything)

    assert [await as_owner(target, f"TABLE {table}") for table in tables] == before


async def test_an_analysts_state_survives_revisions(writer: AlertsWriter, database: Database) -> None:
    await written(writer, an_alert())
    async with database.transaction(TENANT) as connection:
        await close_alert(
            connection, PRINCIPAL, uuid.UUID(alert_uuid(1)), note="ours", resolution="benign", now_unix_ns=NOW_UNIX_NS
        )
    await written(writer, an_alert(revision=2))

    alert = await stored_alert(database)
    assert alert is not None
    assert (alert.revision, alert.state, alert.state_by, alert.state_note) == (2, "closed", "ann", "ours")


async def test_steps_in_any_order_give_the_same_action(writer: AlertsWriter, database: Database) -> None:
    life = (
        ActionState.ACTION_STATE_REQUESTED,
        ActionState.ACTION_STATE_SIGNED,
        ActionState.ACTION_STATE_RELAYED,
        ActionState.ACTION_STATE_EXECUTED,
        ActionState.ACTION_STATE_OBSERVED,
    )
    proof = uuid.uuid4()
    steps = [a_step(state) for state in life]
    steps[-1].evidence_event_ids.append(proof.bytes)
    for step in reversed(steps):
        await written(writer, step)

    action = await stored_action(database)
    assert action.state == "observed"
    assert action.proof_event_ids == [str(proof)]
    assert [step.state for step in action.steps] == ["requested", "signed", "relayed", "executed", "observed"]
    assert action.created_unix_ns == steps[0].at_unix_ns


async def test_a_step_that_knows_less_erases_nothing(writer: AlertsWriter, database: Database) -> None:
    await written(writer, a_step(ActionState.ACTION_STATE_SIGNED))
    late = a_step(ActionState.ACTION_STATE_REFUSED, alert_id="", rule_id="", type=0, reason="pid_reused")
    late.ClearField("process")
    await written(writer, late)

    action = await stored_action(database)
    assert (action.state, action.reason) == ("refused", "pid_reused")
    assert (action.type, action.target.pid, action.rule_id) == ("kill_process", 4242, "R1001")


async def test_the_newest_session_of_a_host_stands(writer: AlertsWriter, database: Database) -> None:
    await written(writer, a_session(at_unix_ns=NOW_UNIX_NS + 5, collector="ebpf"))
    await written(writer, a_session(at_unix_ns=NOW_UNIX_NS, collector="procfs"))

    async with database.transaction(TENANT) as connection:
        host = await store.find_host(connection, HOST)
    assert host is not None
    assert (host.collector, host.first_seen_unix_ns, host.last_seen_unix_ns) == ("ebpf", NOW_UNIX_NS, NOW_UNIX_NS + 5)


async def test_a_tenant_sees_nothing_of_another(writer: AlertsWriter, database: Database) -> None:
    await writer.consume(consumed(an_alert(tenant_id="other"), tenant_id="other"))
    await writer.consume(consumed(an_alert(2)))
    await writer.flush()

    assert await stored_alert(database, 1) is None
    assert await stored_alert(database, 1, "other") is not None
    async with database.transaction() as connection:
        for table in ("alerts", "hosts", "actions", "action_steps", "audit", "outbox"):
            assert await connection.fetch(f"TABLE {table}") == [], "no tenant, no rows"


async def test_the_header_names_the_tenant_whatever_the_alert_says(writer: AlertsWriter, database: Database) -> None:
    await writer.consume(consumed(an_alert(tenant_id="victim"), tenant_id=TENANT))
    await writer.flush()

    assert await stored_alert(database, 1, "victim") is None
    assert await stored_alert(database, 1, TENANT) is not None


@pytest.mark.parametrize(
    ("message", "tenant_id", "reason"),
    [
        pytest.param(an_alert(alert_id="no uuid"), TENANT, "undecodable", id="alert id"),
        pytest.param(an_alert(host_id="a/b"), TENANT, "undecodable", id="host id"),
        pytest.param(an_alert(revision=2**63), TENANT, "undecodable", id="number too large"),
        pytest.param(an_alert(confidence=float("nan")), TENANT, "undecodable", id="not a number"),
        pytest.param(an_alert(), "", "bad_headers", id="no tenant"),
        pytest.param(an_alert(), "../x", "bad_headers", id="tenant is no name"),
        pytest.param(a_step(ActionState.ACTION_STATE_UNSPECIFIED), TENANT, "undecodable", id="no state"),
    ],
)
async def test_a_record_that_cannot_be_is_a_dead_letter(
    writer: AlertsWriter, message: object, tenant_id: str, reason: str
) -> None:
    with pytest.raises(DeadLetterError) as caught:
        await writer.consume(consumed(message, tenant_id=tenant_id))  # type: ignore[arg-type]

    assert caught.value.reason == reason


async def test_text_that_postgres_cannot_hold_is_still_an_alert(writer: AlertsWriter, database: Database) -> None:
    alert = an_alert(summary="a\0b", matched_fields={"process.cmdline": "x\0y"})
    alert.entities.cmdline = "evil\0"
    await written(writer, alert)

    stored = await stored_alert(database)
    assert stored is not None
    assert stored.summary == "a\ufffdb"


async def test_what_the_store_rejects_does_not_hold_up_the_rest(
    writer: AlertsWriter, database: Database, target: Target, bus: MemoryBus
) -> None:
    await as_owner(target, "ALTER TABLE alerts ADD CONSTRAINT poison CHECK (rule_id <> 'R666')")
    poison = an_alert(2)
    poison.rule.rule_id = "R666"
    await written(writer, an_alert(1), poison, an_alert(3))

    assert [await stored_alert(database, number) is not None for number in (1, 2, 3)] == [True, False, True]
    letters = await bus.tail([topics.dead_letters(topics.ALERTS)], since_unix_ms=0)
    assert len(await letters.fetch(max_records=10, timeout_s=1.0)) == 1
    await letters.close()


async def test_while_the_store_is_away_nothing_is_forgotten(
    tmp_path: Path, target: Target, database: Database, bus: MemoryBus
) -> None:
    metrics = MetricRegistry().for_service("alerts")
    dead_letters = DeadLetters(bus, group=GROUP, metrics=metrics, limits=DeadLetterLimits())
    away = Database(Target(owner={}, app={**target.app, "host": str(tmp_path)}))
    await away.open()
    writer = AlertsWriter(away, dead_letters=dead_letters, metrics=metrics)
    await writer.consume(consumed(an_alert()))
    for _ in range(2):
        with pytest.raises(RetryLaterError, match="PostgreSQL is away"):
            await writer.flush()
    await away.close()
    writer._database = database
    await writer.flush()

    assert await stored_alert(database) is not None


async def test_ids_of_the_outbox_become_visible_in_their_order(
    writer: AlertsWriter, database: Database, target: Target
) -> None:
    await writer.consume(consumed(an_alert(2)))
    async with database.transaction(TENANT) as connection:
        await connection.execute(LOCK_OUTBOX)
        await connection.execute(STORE_ALERT, *alert_change(TENANT, an_alert(1), NOW_UNIX_NS).row)
        second = asyncio.create_task(writer.flush())
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done, "its id is greater, so it may not be seen before the first"
    await second

    told = await as_owner(target, "SELECT subject_id FROM outbox ORDER BY outbox_id")
    assert [row["subject_id"] for row in told] == [alert_uuid(1), alert_uuid(2)]


async def test_old_news_is_pruned(writer: AlertsWriter, target: Target) -> None:
    await written(writer, an_alert(1))
    await as_owner(target, "UPDATE outbox SET at_unix_ns = 1")
    writer._prune_due_s = 0.0
    await written(writer, an_alert(2))

    told = await as_owner(target, "SELECT subject_id FROM outbox")
    assert [row["subject_id"] for row in told] == [alert_uuid(2)]


@pytest.mark.parametrize("statement", ["UPDATE audit SET verb = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_nobody_changes_the_audit(
    writer: AlertsWriter, database: Database, target: Target, statement: str
) -> None:
    await written(writer, an_alert())
    async with database.transaction(TENANT) as connection:
        await close_alert(connection, PRINCIPAL, uuid.UUID(alert_uuid(1)), note="", resolution="", now_unix_ns=1)

    with pytest.raises(Exception, match="append-only"):
        await as_owner(target, statement)
    with pytest.raises(Exception, match="permission denied"):
        async with database.transaction(TENANT) as connection:
            await connection.execute(statement)
