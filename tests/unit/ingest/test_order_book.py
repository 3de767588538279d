"""Orders wait for their host for as long as they are valid, within bounds, and are forgotten once answered."""

from dataclasses import replace

import pytest

from microedr.limits import MAX_ACTION_BYTES
from microedr.v1.action_pb2 import ActionState, ActionUpdate, SignedAction
from microedr_ingest import orders
from microedr_ingest.orders import NotRelayableError, OrderBook, read_order
from support.orders import HOST, NONCE, NOW_UNIX_NS, SECOND_NS, TENANT, Order

_HOST = (TENANT, HOST)


def update(order: Order) -> ActionUpdate:
    return ActionUpdate(
        action_id=order.action_id,
        tenant_id=order.tenant_id,
        host_id=order.host_id,
        signed=SignedAction.FromString(order.sign()),
    )


def relayable(order: Order) -> orders.Order:
    return read_order(update(order))


def test_an_order_waits_for_its_host_and_session() -> None:
    book = OrderBook()
    book.add(relayable(Order()), NOW_UNIX_NS)

    assert [o.action_id for o in book.waiting(_HOST, NONCE, NOW_UNIX_NS)] == [Order().action_id]
    assert book.waiting(_HOST, b"another run", NOW_UNIX_NS) == []
    assert book.waiting((TENANT, "host-b"), NONCE, NOW_UNIX_NS) == []
    assert book.waiting(("umbrella", HOST), NONCE, NOW_UNIX_NS) == []


def test_an_order_is_forgotten_when_it_expires() -> None:
    book = OrderBook()
    book.add(relayable(Order()), NOW_UNIX_NS)

    assert book.waiting(_HOST, NONCE, NOW_UNIX_NS + 120 * SECOND_NS) == []
    assert len(book) == 0


@pytest.mark.parametrize("state", [ActionState.ACTION_STATE_EXECUTED, ActionState.ACTION_STATE_REFUSED])
def test_an_answered_order_is_neither_kept_nor_taken_again(state: ActionState.ValueType) -> None:
    book = OrderBook()
    book.add(relayable(Order()), NOW_UNIX_NS)

    assert book.answer(_HOST, Order().action_id, state)
    assert not book.answer(_HOST, Order().action_id, state)
    assert book.waiting(_HOST, NONCE, NOW_UNIX_NS) == []
    with pytest.raises(NotRelayableError, match="duplicate"):
        book.add(relayable(Order()), NOW_UNIX_NS)


def test_relayed_is_no_answer() -> None:
    book = OrderBook()
    book.add(relayable(Order()), NOW_UNIX_NS)

    assert not book.answer(_HOST, Order().action_id, ActionState.ACTION_STATE_RELAYED)
    assert len(book) == 1


def test_the_same_order_twice_is_a_duplicate_and_one_signed_anew_takes_its_place() -> None:
    book = OrderBook()
    book.add(relayable(Order()), NOW_UNIX_NS)
    with pytest.raises(NotRelayableError, match="duplicate"):
        book.add(relayable(Order()), NOW_UNIX_NS)
    book.add(relayable(replace(Order(), session_nonce=b"another run")), NOW_UNIX_NS)

    assert book.waiting(_HOST, NONCE, NOW_UNIX_NS) == []
    assert len(book.waiting(_HOST, b"another run", NOW_UNIX_NS)) == 1


def test_one_host_cannot_fill_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MAX_ORDERS_PER_HOST", 3)
    book = OrderBook()
    for number in range(3):
        book.add(relayable(replace(Order(), action_id=f"a{number}")), NOW_UNIX_NS)

    with pytest.raises(NotRelayableError, match="full"):
        book.add(relayable(replace(Order(), action_id="a4")), NOW_UNIX_NS)
    book.add(relayable(replace(Order(), host_id="host-b")), NOW_UNIX_NS)


def test_the_answers_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MAX_ANSWERED", 2)
    book = OrderBook()
    for action_id in ("a", "b", "c"):
        book.answer(_HOST, action_id, ActionState.ACTION_STATE_EXECUTED)

    assert book.answer(_HOST, "a", ActionState.ACTION_STATE_EXECUTED)
    assert not book.answer(_HOST, "c", ActionState.ACTION_STATE_EXECUTED)


def test_an_oversize_order_is_malformed() -> None:
    large = update(Order())
    large.signed.action = b"x" * (MAX_ACTION_BYTES + 1)

    with pytest.raises(NotRelayableError, match="malformed"):
        read_order(large)
