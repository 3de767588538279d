"""The API's promise: what is stored, page by page, to those with the token; every refusal names its field."""

import datetime as dt
import uuid
from typing import Any

import httpx
import pytest

from microedr import ids
from microedr.v1.action_pb2 import ACTION_STATE_REQUESTED, ActionState, ActionUpdate
from microedr.v1.detection_pb2 import Severity
from microedr_alerts.api.context import ApiContext
from microedr_alerts.api.guards import MAX_BODY_BYTES
from microedr_alerts.target import Target
from microedr_alerts.writer import AlertsWriter
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record, TopicPartition
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.errors import BusUnavailableError
from microedr_chassis.lifecycle import Health
from support.alert_records import (
    HOST,
    NOW_UNIX_NS,
    PROCESS_UID,
    TENANT,
    a_session,
    a_step,
    alert_uuid,
    an_alert,
    consumed,
)
from support.postgres import as_owner


async def written(writer: AlertsWriter, *messages: object) -> None:
    for message in messages:
        await writer.consume(consumed(message))  # type: ignore[arg-type]
    await writer.flush()


async def ids_of(api: httpx.AsyncClient, **query: Any) -> list[int]:
    answer = await api.get("/v1/alerts", params=query)
    assert answer.status_code == 200, answer.text
    return [uuid.UUID(item["alert_id"]).int for item in answer.json()["items"]]


async def test_an_alert_shows_everything(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, an_alert(), a_step(ActionState.ACTION_STATE_SIGNED))
    answer = await api.get(f"/v1/alerts/{alert_uuid(1)}")

    shown = answer.json()
    assert (shown["severity"], shown["rule_id"], shown["state"]) == ("high", "R1001", "open")
    assert shown["event_unix_ns"] == NOW_UNIX_NS
    assert shown["entities"]["process_uid"] == PROCESS_UID.hex()
    match, destination = shown["evidence"]
    assert match["event"]["event_id"] == shown["evidence_event_ids"][0] == str(uuid.UUID(int=1 << 64))
    assert match["event"]["proc_exec"]["argv"][0] == "sh"
    assert destination["event"]["net_conn"]["dst_ip"] == "192.0.2.7"
    assert destination["event"]["net_conn"]["direction"] == "egress"
    assert shown["process_tree"][0]["exe"] == "/usr/bin/dash"
    assert shown["destinations"][0]["ip"] == "192.0.2.7"
    assert [step["state"] for step in shown["actions"][0]["steps"]] == ["signed"]


async def test_pages_hold_each_alert_once_while_new_ones_arrive(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, *(an_alert(number) for number in range(1, 21)))
    seen: list[int] = []
    cursor = None
    for page in range(100, 200):
        query: dict[str, Any] = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        answer = (await api.get("/v1/alerts", params=query)).json()
        seen += [uuid.UUID(item["alert_id"]).int for item in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
        await written(writer, an_alert(page), an_alert(page - 99, revision=page, raised_unix_ns=NOW_UNIX_NS * 2))

    assert seen == list(range(20, 0, -1))


async def test_alerts_raised_at_once_are_paged_by_id(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, *(an_alert(number, raised_unix_ns=NOW_UNIX_NS) for number in range(1, 6)))
    first = (await api.get("/v1/alerts", params={"limit": 2})).json()
    rest = (await api.get("/v1/alerts", params={"limit": 3, "cursor": first["next_cursor"]})).json()

    assert [uuid.UUID(i["alert_id"]).int for i in first["items"] + rest["items"]] == [5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None


@pytest.fixture
async def mixed(writer: AlertsWriter) -> None:
    other = an_alert(4, host_id="host-b", title="100%_sure\\")
    other.rule.rule_id = "R2000"
    await written(
        writer,
        an_alert(1, severity=Severity.SEVERITY_LOW),
        an_alert(2, severity=Severity.SEVERITY_MEDIUM),
        an_alert(3, severity=Severity.SEVERITY_CRITICAL, summary="Ünïcode"),
        other,
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param({}, [4, 3, 2, 1], id="all"),
        pytest.param({"severity": "low"}, [1], id="severity"),
        pytest.param({"severity": ["low", "critical"]}, [3, 1], id="severities"),
        pytest.param({"min_severity": "high"}, [4, 3], id="min severity"),
        pytest.param({"host_id": "host-b"}, [4], id="host"),
        pytest.param({"rule_id": "R1001"}, [3, 2, 1], id="rule"),
        pytest.param({"rule_id": "R1001", "min_severity": "critical"}, [3], id="both"),
        pytest.param({"since": str(NOW_UNIX_NS + 3)}, [4, 3], id="since"),
        pytest.param({"until": str(NOW_UNIX_NS + 3)}, [2, 1], id="until"),
        pytest.param({"since": "2027-01-15T08:00:00Z"}, [4, 3, 2, 1], id="since as text"),
        pytest.param({"until": "2027-01-15T09:00:00+01:00"}, [], id="until as text"),
        pytest.param({"q": "CURL HTTP"}, [4, 3, 2, 1], id="text"),
        pytest.param({"q": "ünïCODE"}, [3], id="text that is not ASCII"),
        pytest.param({"q": "100%_sure\\"}, [4], id="text with LIKE's own characters"),
        pytest.param({"q": "%"}, [4], id="a percent sign is itself"),
        pytest.param({"state": "closed"}, [], id="state"),
        pytest.param({"state": ["open", "acked"]}, [4, 3, 2, 1], id="states"),
    ],
)
@pytest.mark.usefixtures("mixed")
async def test_filters(api: httpx.AsyncClient, query: dict[str, Any], expected: list[int]) -> None:
    assert await ids_of(api, **query) == expected


def test_the_time_of_the_filters_is_the_time_of_the_alerts() -> None:
    assert dt.datetime.fromtimestamp(NOW_UNIX_NS / 10**9, dt.UTC).isoformat() == "2027-01-15T08:00:00+00:00"


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        pytest.param("GET", "/v1/alerts?limit=0", None, "limit", id="limit too small"),
        pytest.param("GET", "/v1/alerts?limit=501", None, "limit", id="limit too large"),
        pytest.param("GET", "/v1/alerts?severity=awful", None, "severity.0", id="unknown severity"),
        pytest.param("GET", "/v1/alerts?severty=high", None, "severty", id="misspelt filter"),
        pytest.param("GET", "/v1/alerts?since=2027-01-15T08:00:00", None, "since", id="no zone"),
        pytest.param("GET", "/v1/alerts?until=yesterday", None, "until", id="no time"),
        pytest.param("GET", "/v1/alerts?cursor=%21", None, "cursor", id="no cursor"),
        pytest.param("GET", "/v1/alerts?cursor=MTp4", None, "cursor", id="cursor of another list"),
        pytest.param("GET", "/v1/alerts/nothing", None, "alert_id", id="no uuid"),
        pytest.param("POST", f"/v1/alerts/{alert_uuid(1)}:close", {"resolution": "x"}, "resolution", id="resolution"),
        pytest.param("POST", f"/v1/alerts/{alert_uuid(1)}:ack", {"nota": "x"}, "nota", id="misspelt note"),
        pytest.param("POST", f"/v1/alerts/{alert_uuid(1)}:ack", {"note": "x" * 5000}, "note", id="long note"),
        pytest.param("POST", "/v1/actions", {"type": "reboot"}, "type", id="unknown action"),
        pytest.param("POST", "/v1/actions", {"type": "kill_process"}, "host_id", id="no process"),
        pytest.param(
            "POST", "/v1/actions", {"type": "kill_process", "process_uid": "xyz"}, "process_uid", id="no process_uid"
        ),
        pytest.param(
            "POST", "/v1/actions", {"type": "kill_process", "alert_id": alert_uuid(9)}, "alert_id", id="unknown alert"
        ),
    ],
)
async def test_a_refusal_names_the_field(
    api: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None, field: str
) -> None:
    answer = await api.request(method, path, json=body)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    "path", [f"/v1/alerts/{alert_uuid(9)}", "/v1/hosts/nobody", f"/v1/actions/{alert_uuid(9)}", "/x"]
)
async def test_what_is_not_there_is_a_problem_too(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "path", ["/v1/alerts", f"/v1/alerts/{alert_uuid(1)}", "/v1/hosts", "/v1/hosts/a", "/v1/actions", "/v1/stream"]
)
async def test_without_the_token_nothing_is_told(anonymous: httpx.AsyncClient, path: str) -> None:
    for authorization in (None, "Bearer wrong", "Basic dDp0", "Bearer ", "Bearer ü".encode()):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await anonymous.get(path, headers=headers)  # type: ignore[arg-type]

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_health_needs_no_token(anonymous: httpx.AsyncClient, context: ApiContext) -> None:
    good = await anonymous.get("/v1/health")
    context.health = lambda: Health(ok=False, detail="a secret place")
    bad = await anonymous.get("/v1/health")

    assert (good.status_code, good.json()) == (200, {"status": "ok"})
    assert (bad.status_code, bad.json()) == (503, {"status": "degraded"})


async def test_ack_and_close_are_done_once_and_audited(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, an_alert())
    path = f"/v1/alerts/{alert_uuid(1)}"
    acked = (await api.post(f"{path}:ack", json={"note": "mine"})).json()
    again = (await api.post(f"{path}:ack", json={"note": "mine too"})).json()
    closed = (await api.post(f"{path}:close", json={"note": "a test", "resolution": "benign"})).json()
    for _ in range(2):
        assert (await api.post(f"{path}:close")).json() == closed

    assert acked == again
    assert (acked["state"], acked["state_note"]) == ("acked", "mine")
    assert (closed["state"], closed["resolution"], closed["state_by"]) == ("closed", "benign", "token")
    assert [(entry["verb"], entry["detail"]) for entry in closed["history"]] == [
        ("alert.ack", {"note": "mine"}),
        ("alert.close", {"note": "a test", "resolution": "benign"}),
    ]
    assert (await api.post(f"{path}:ack")).status_code == 409
    assert await ids_of(api, state="closed") == [1]


async def test_ack_works_without_a_body_and_not_on_nothing(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, an_alert())

    assert (await api.post(f"/v1/alerts/{alert_uuid(1)}:ack")).json()["state"] == "acked"
    assert (await api.post(f"/v1/alerts/{alert_uuid(2)}:ack")).status_code == 404


async def test_hosts_are_listed_with_their_open_alerts(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    await written(writer, an_alert(1), an_alert(2), *(a_session(host_id=name) for name in (HOST, "host-b", "host-c")))
    first = (await api.get("/v1/hosts", params={"limit": 2})).json()
    rest = (await api.get("/v1/hosts", params={"cursor": first["next_cursor"]})).json()

    assert [host["host_id"] for host in first["items"] + rest["items"]] == [HOST, "host-b", "host-c"]
    assert (first["items"][0]["open_alerts"], first["items"][0]["connection"]) == (2, "connected")
    assert (await api.get(f"/v1/hosts/{HOST}")).json() == first["items"][0]


async def requested(bus: MemoryBus) -> list[ActionUpdate]:
    tail = await bus.tail([topics.ACTIONS], since_unix_ms=0)
    records = await tail.fetch(max_records=10, timeout_s=0.2)
    await tail.close()
    assert all(record.key == HOST.encode() for record in records)
    assert all(record.headers["tenant_id"] == TENANT.encode() for record in records)
    return [ActionUpdate.FromString(record.value) for record in records]


async def test_a_kill_asked_for_by_alert_takes_its_process(
    api: httpx.AsyncClient, writer: AlertsWriter, bus: MemoryBus
) -> None:
    await written(writer, an_alert(), a_session())
    body = {"type": "kill_process", "alert_id": alert_uuid(1), "reason": "seen enough"}
    answer = await api.post("/v1/actions", json=body)

    assert answer.status_code == 202, answer.text
    action = answer.json()
    assert answer.headers["location"] == f"/v1/actions/{action['action_id']}"
    (update,) = await requested(bus)
    assert update.action_id == action["action_id"]
    assert update.state == ACTION_STATE_REQUESTED
    assert (update.process.pid, update.process.process_uid) == (4242, PROCESS_UID)
    assert (update.process.start_boot_ns, update.alert_id) == (123_000_000, alert_uuid(1))
    assert (update.actor, update.detail, update.trace_id) == ("user:token", "seen enough", "ab" * 16)
    shown = (await api.get(f"/v1/alerts/{alert_uuid(1)}")).json()
    assert [item["state"] for item in shown["actions"]] == ["requested"]
    assert shown["history"][0]["verb"] == "action.request"

    await writer.consume(consumed(update))
    await writer.flush()

    assert (await api.get(f"/v1/actions/{action['action_id']}")).json() == action, (
        "our own request coming back is known"
    )


async def test_a_key_asks_for_one_action_only(api: httpx.AsyncClient, writer: AlertsWriter, bus: MemoryBus) -> None:
    await written(writer, an_alert(), a_session())
    body = {"type": "kill_process", "alert_id": alert_uuid(1)}
    key = {"Idempotency-Key": "0123456789"}
    first, second = [await api.post("/v1/actions", json=body, headers=key) for _ in range(2)]
    other = {"type": "kill_process", "host_id": HOST, "process_uid": "ff" * 16, "pid": 5, "start_boot_ns": 10}
    misused = await api.post("/v1/actions", json=other, headers=key)

    assert first.json() == second.json()
    assert first.json()["action_id"] == ids.action_id(f"request:{TENANT}:token:0123456789", "kill_process", "")
    assert len({update.action_id for update in await requested(bus)}) == 1
    assert misused.status_code == 422
    assert misused.json()["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"pid": 1}, "pid", id="init"),
        pytest.param({"host_id": "host-z"}, "host_id", id="unknown host"),
        pytest.param({"start_boot_ns": None}, "start_boot_ns", id="no start"),
        pytest.param({"alert_id": alert_uuid(1), "process_uid": PROCESS_UID.hex(), "pid": 77}, "pid", id="other pid"),
        pytest.param({"alert_id": alert_uuid(1), "host_id": "host-b"}, "host_id", id="alert of another host"),
    ],
)
async def test_an_ambiguous_or_forbidden_kill_is_refused(  # noqa: PLR0913, PLR0917 - fixtures and parameters
    api: httpx.AsyncClient,
    writer: AlertsWriter,
    bus: MemoryBus,
    target: Target,
    changes: dict[str, Any],
    field: str,
) -> None:
    await written(writer, an_alert(), a_session(), a_session(host_id="host-b"))
    body = {"type": "kill_process", "host_id": HOST, "process_uid": "ff" * 16, "pid": 5, "start_boot_ns": 10}
    answer = await api.post("/v1/actions", json={**body, **changes})

    assert answer.status_code == 422, answer.text
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert await requested(bus) == []
    assert await as_owner(target, "SELECT * FROM actions") == []


class AwayOnce:
    """A bus that is away for the first request."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._away = True

    async def publish(self, record: Record) -> tuple[TopicPartition, int]:
        """As the bus, from the second time on."""
        if self._away:
            self._away = False
            raise BusUnavailableError("no broker")
        return await self._bus.publish(record)


async def test_a_request_that_was_not_published_can_be_sent_again(
    api: httpx.AsyncClient, writer: AlertsWriter, bus: MemoryBus, context: ApiContext
) -> None:
    await written(writer, an_alert(), a_session())
    context.publisher = AwayOnce(bus)
    body = {"type": "kill_process", "alert_id": alert_uuid(1)}
    key = {"Idempotency-Key": "0123456789"}
    refused = await api.post("/v1/actions", json=body, headers=key)
    taken = await api.post("/v1/actions", json=body, headers=key)

    assert (refused.status_code, taken.status_code) == (503, 202)
    assert refused.headers["retry-after"]
    assert [update.action_id for update in await requested(bus)] == [taken.json()["action_id"]]


async def test_actions_are_listed_newest_first(api: httpx.AsyncClient, writer: AlertsWriter) -> None:
    steps = [a_step(ActionState.ACTION_STATE_SIGNED, number, at_unix_ns=NOW_UNIX_NS + number) for number in range(5)]
    await written(writer, *steps, a_step(ActionState.ACTION_STATE_REFUSED, 2, reason="pid_reused"))
    first = (await api.get("/v1/actions", params={"limit": 3})).json()
    rest = (await api.get("/v1/actions", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    refused = (await api.get("/v1/actions", params={"state": "refused"})).json()

    assert [uuid.UUID(item["action_id"]).int - 1000 for item in first["items"] + rest["items"]] == [4, 3, 2, 1, 0]
    assert [item["reason"] for item in refused["items"]] == ["pid_reused"]


async def test_answers_carry_security_headers(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/v1/alerts")

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["strict-transport-security"]


async def test_a_large_body_is_refused_unread(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/actions", content=b"x" * (MAX_BODY_BYTES + 1))

    assert answer.status_code == 413


async def test_the_page_of_the_api_needs_nothing_from_outside(anonymous: httpx.AsyncClient) -> None:
    page = (await anonymous.get("/docs")).text
    schema = (await anonymous.get("/openapi.json")).json()

    assert "<script" not in page
    assert "http" not in page.replace("https://api", "")
    for path in schema["paths"]:
        assert path in page
    assert {"/v1/alerts", "/v1/alerts/{alert_id}:ack", "/v1/stream", "/v1/health"} <= set(schema["paths"])
