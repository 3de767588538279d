"""Orders reach the one stream of their host unchanged, and what became of them reaches the bus, once."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from microedr import headers
from microedr.v1.action_pb2 import ActionResult, ActionState, ActionUpdate, SignedAction
from microedr.v1.transport_pb2 import StreamRequest
from microedr_chassis import catalogue
from microedr_chassis.bus.api import Record
from microedr_chassis.bus.topics import ACTION_RESULTS, ACTIONS
from support.certificates import CertificateRequest
from support.ingest import PATIENCE_S, Ingest, agent, running_ingest
from support.orders import SECOND_NS, Order

_NONCE = b"n" * 16


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    async with running_ingest(tmp_path) as one:
        yield one


def order(number: int = 1, **changes: object) -> Order:
    good = Order(
        action_id=f"00000000-0000-4000-8000-{number:012}",
        session_nonce=_NONCE,
        expires_unix_ns=time.time_ns() + 60 * SECOND_NS,
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def signed_update(one: Order, **changes: object) -> ActionUpdate:
    update = ActionUpdate(
        action_id=one.action_id,
        tenant_id=one.tenant_id,
        host_id=one.host_id,
        state=ActionState.ACTION_STATE_SIGNED,
        alert_id="alert-7",
        rule_id="rule-7",
        trace_id="t" * 32,
        signed=SignedAction.FromString(one.sign()),
    )
    for name, value in changes.items():
        setattr(update, name, value)
    return update


async def publish(ingest: Ingest, update: ActionUpdate, topic: str = ACTIONS) -> None:
    owner = {headers.TENANT: update.tenant_id.encode(), headers.HOST: update.host_id.encode()}
    await ingest.bus.publish(Record(topic, b"host-a", update.SerializeToString(), owner))


async def updates(ingest: Ingest, count: int) -> list[ActionUpdate]:
    return [ActionUpdate.FromString(record.value) for record in await ingest.records(ACTION_RESULTS, count)]


async def dropped(ingest: Ingest, reason: str, count: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(1000):
            if ingest.metrics.value(catalogue.ACTIONS_DROPPED, reason=reason) >= count:
                return
            await asyncio.sleep(0.02)


async def test_a_signed_action_reaches_its_host_with_its_bytes_untouched(ingest: Ingest) -> None:
    one = order()
    async with agent(ingest) as host:
        await host.greet()
        await publish(ingest, signed_update(one))
        response = await host.hear()
        (relayed,) = await updates(ingest, 1)

    assert response.action.SerializeToString() == one.sign()
    assert (relayed.state, relayed.action_id) == (ActionState.ACTION_STATE_RELAYED, one.action_id)
    assert (relayed.tenant_id, relayed.host_id, relayed.alert_id) == ("acme", "host-a", "alert-7")
    assert (relayed.actor, relayed.trace_id) == ("service:ingest", "t" * 32)


async def test_an_order_waits_for_its_host_to_connect(ingest: Ingest) -> None:
    one = order()
    await publish(ingest, signed_update(one))
    async with agent(ingest) as host:
        await host.greet()

        assert (await host.hear()).action.SerializeToString() == one.sign()


async def test_an_order_is_sent_again_when_the_host_connects_anew_without_having_answered(ingest: Ingest) -> None:
    await publish(ingest, signed_update(order()))
    for _ in range(2):
        async with agent(ingest) as host:
            await host.greet()
            assert (await host.hear()).HasField("action")


async def test_an_answered_order_is_not_sent_again(ingest: Ingest) -> None:
    one = order()
    await publish(ingest, signed_update(one))
    async with agent(ingest) as host:
        await host.greet()
        await host.hear()
        await host.say(StreamRequest(action_result=_executed(one)))
        await updates(ingest, 2)
    later = order(2)
    async with agent(ingest) as host:
        await host.greet()
        await publish(ingest, signed_update(later))

        assert (await host.hear()).action.SerializeToString() == later.sign()


def _executed(one: Order) -> ActionResult:
    return ActionResult(
        action_id=one.action_id, state=ActionState.ACTION_STATE_EXECUTED, finished_unix_ns=5, detail="killed"
    )


async def test_a_result_is_published_once_under_the_certificates_names(ingest: Ingest) -> None:
    one = order()
    await publish(ingest, signed_update(one))
    async with agent(ingest) as host:
        await host.greet()
        await host.hear()
        for _ in range(3):
            await host.say(StreamRequest(action_result=_executed(one)))
        await dropped(ingest, "duplicate", 2)
        _, executed = await updates(ingest, 2)

    assert executed.state == ActionState.ACTION_STATE_EXECUTED
    assert (executed.tenant_id, executed.host_id, executed.actor) == ("acme", "host-a", "agent")
    assert (executed.alert_id, executed.rule_id, executed.process.pid) == ("alert-7", "rule-7", 0)
    assert ingest.metrics.value(catalogue.ACTION_UPDATES, state="executed") == 1


async def test_a_host_cannot_answer_for_another(ingest: Ingest) -> None:
    one = order()
    other = CertificateRequest(uris=("spiffe://microedr.local/tenant/acme/host/host-b",))
    await publish(ingest, signed_update(one))
    async with agent(ingest, other, host_id="host-b") as liar:
        await liar.greet()
        await liar.say(StreamRequest(action_result=_executed(one)))
        (claimed,) = await updates(ingest, 1)
    async with agent(ingest) as host:
        await host.greet()
        response = await host.hear()

    assert (claimed.host_id, claimed.alert_id) == ("host-b", "")
    assert response.HasField("action")


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        pytest.param(signed_update(order(expires_unix_ns=1)), "expired", id="expired"),
        pytest.param(signed_update(order(), action_id="another"), "malformed", id="the signed id is another"),
        pytest.param(signed_update(order(), host_id="host-b"), "wrong_host", id="the signed host is another"),
        pytest.param(signed_update(order(), tenant_id="umbrella"), "wrong_host", id="the signed tenant is another"),
        pytest.param(
            ActionUpdate(action_id="x", tenant_id="acme", host_id="host-a", state=ActionState.ACTION_STATE_SIGNED),
            "malformed",
            id="nothing signed",
        ),
    ],
)
async def test_what_cannot_be_an_order_is_not_relayed(ingest: Ingest, update: ActionUpdate, reason: str) -> None:
    async with agent(ingest) as host:
        await host.greet()
        await publish(ingest, update)
        await dropped(ingest, reason)
        good = order(9)
        await publish(ingest, signed_update(good))

        assert (await host.hear()).action.SerializeToString() == good.sign()


async def test_an_order_for_another_run_of_the_responder_is_not_relayed(ingest: Ingest) -> None:
    good = order(2)
    async with agent(ingest) as host:
        await host.greet()
        await publish(ingest, signed_update(order(1, session_nonce=b"o" * 16)))
        await publish(ingest, signed_update(good))

        assert (await host.hear()).action.SerializeToString() == good.sign()


async def test_a_record_whose_headers_name_another_host_is_dropped(ingest: Ingest) -> None:
    update = signed_update(order())
    owner = {headers.TENANT: b"acme", headers.HOST: b"host-b"}
    async with agent(ingest) as host:
        await host.greet()
        await ingest.bus.publish(Record(ACTIONS, b"host-a", update.SerializeToString(), owner))
        await dropped(ingest, "wrong_host")


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(ActionResult(action_id="", state=ActionState.ACTION_STATE_EXECUTED), id="no id"),
        pytest.param(ActionResult(action_id="a b", state=ActionState.ACTION_STATE_EXECUTED), id="no name"),
        pytest.param(ActionResult(action_id="a", state=ActionState.ACTION_STATE_APPROVED), id="not the agent's to say"),
    ],
)
async def test_a_result_that_makes_no_sense_is_dropped(ingest: Ingest, result: ActionResult) -> None:
    async with agent(ingest) as host:
        await host.greet()
        await host.say(StreamRequest(action_result=result))
        await dropped(ingest, "malformed")
        await host.say(StreamRequest(action_result=_executed(order())))
        (only,) = await updates(ingest, 1)

    assert only.action_id == order().action_id


async def test_results_outlive_a_bus_that_is_away(ingest: Ingest) -> None:
    async with agent(ingest) as host:
        await host.greet()
        await ingest.records("microedr.hosts.v1", 1)
        ingest.bus.broker.away = True
        await host.say(StreamRequest(action_result=_executed(order())))
        await asyncio.sleep(0.5)
        ingest.bus.broker.away = False
        (executed,) = await updates(ingest, 1)

    assert executed.state == ActionState.ACTION_STATE_EXECUTED


async def test_another_instance_that_hears_the_result_does_not_relay(ingest: Ingest) -> None:
    one = order()
    answered = ActionUpdate(
        action_id=one.action_id, tenant_id="acme", host_id="host-a", state=ActionState.ACTION_STATE_EXECUTED
    )
    await publish(ingest, answered, ACTION_RESULTS)
    await asyncio.sleep(0.2)
    await publish(ingest, signed_update(one))
    await dropped(ingest, "duplicate")

    assert ingest.metrics.value(catalogue.ACTIONS_RELAYED) == 0
