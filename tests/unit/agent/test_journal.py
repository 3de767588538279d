"""The responder's memory survives what a disk and a crash can do to it, and stays small."""

from dataclasses import replace
from pathlib import Path

import pytest

from microedr_agent.errors import JournalError
from microedr_agent.responder import journal as journal_module
from microedr_agent.responder.action import Action, ActionResult, ActionState, read_action
from microedr_agent.responder.journal import Journal
from support.orders import NOW_UNIX_NS, SECOND_NS, Order


def _order(number: int) -> Order:
    return replace(Order(), action_id=f"00000000-0000-0000-0000-{number:012d}", sequence=number)


def _action(number: int) -> Action:
    return read_action(_order(number).action().SerializeToString())


def _executed(order: Order) -> ActionResult:
    return ActionResult(action_id=order.action_id, state=ActionState.EXECUTED, finished_unix_ns=1)


def _journal(tmp_path: Path, now_unix_ns: int = NOW_UNIX_NS) -> Journal:
    return Journal(str(tmp_path / "journal"), now_unix_ns=now_unix_ns)


def test_results_come_again_until_they_are_taken(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    for number in (1, 2):
        journal.record_intent(_action(number), now_unix_ns=NOW_UNIX_NS)
        journal.record_result(_executed(_order(number)))
    journal.record_ack(_order(1).action_id)

    assert _journal(tmp_path).unreported() == [_executed(_order(2))]


def test_a_taken_order_is_remembered_until_it_expires(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    journal.record_intent(_action(1), now_unix_ns=NOW_UNIX_NS)
    journal.record_result(_executed(_order(1)))
    journal.record_ack(_order(1).action_id)

    assert _journal(tmp_path).was_started(_action(1))
    assert not _journal(tmp_path, NOW_UNIX_NS + 120 * SECOND_NS).was_started(_action(1))


@pytest.mark.parametrize("lost_bytes", [1, 5, 20])
def test_a_torn_tail_loses_only_the_last_record(tmp_path: Path, lost_bytes: int) -> None:
    journal = _journal(tmp_path)
    for number in (1, 2):
        journal.record_intent(_action(number), now_unix_ns=NOW_UNIX_NS)
    file = tmp_path / "journal"
    file.write_bytes(file.read_bytes()[:-lost_bytes])

    again = _journal(tmp_path)

    assert again.damaged
    assert again.was_started(_action(1))
    assert not again.was_started(_action(2))
    assert not _journal(tmp_path).damaged


def test_a_flipped_byte_is_noticed_wherever_it_is_and_none_stops_the_start(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    journal.record_intent(_action(1), now_unix_ns=NOW_UNIX_NS)
    file = tmp_path / "journal"
    whole = file.read_bytes()

    for place in range(0, len(whole), 9):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        again = _journal(tmp_path)
        assert again.damaged
        assert again.unreported() == []
        again.close()


def test_when_nobody_takes_results_new_orders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_ENTRIES", 3)
    journal = _journal(tmp_path)
    for number in (1, 2, 3):
        journal.record_intent(_action(number), now_unix_ns=NOW_UNIX_NS)

    with pytest.raises(JournalError) as caught:
        journal.record_intent(_action(4), now_unix_ns=NOW_UNIX_NS)

    assert caught.value.reason == "journal_full"


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_FILE_BYTES", 2000)
    journal = _journal(tmp_path)
    for number in range(1, 60):
        now_unix_ns = NOW_UNIX_NS + number * 200 * SECOND_NS
        journal.record_intent(_action(number), now_unix_ns=now_unix_ns)
        journal.record_result(_executed(_order(number)))
        journal.record_ack(_order(number).action_id)

    assert (tmp_path / "journal").stat().st_size < 3000
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_an_empty_journal_is_whole(tmp_path: Path) -> None:
    _journal(tmp_path).close()

    assert not _journal(tmp_path).damaged


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        Journal(str(tmp_path / "missing" / "journal"), now_unix_ns=NOW_UNIX_NS)
