"""The processes of the agent understand each other and nobody else."""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr_agent import ipc_messages as messages
from microedr_agent.errors import IpcClosedError, IpcMessageError, IpcPeerError
from microedr_agent.ipc import Channel, Listener, connect

NOBODY = 65534
lanes = st.integers(0, 255)
numbers = st.integers(0, 2**64 - 1)
texts = st.text(max_size=200).filter(lambda text: "\0" not in text and text.isprintable())
any_message = st.one_of(
    st.builds(messages.SensorGreeting, st.uuids(), texts),
    st.builds(messages.Extent, st.uuids(), lanes, numbers, numbers, numbers, numbers, numbers),
    st.builds(messages.SpoolAck, st.uuids(), lanes, numbers),
    st.builds(messages.SpoolRefusal, st.uuids(), lanes, numbers, numbers, st.integers(0, 65535), texts),
    st.builds(messages.SessionNonce, st.binary(min_size=16, max_size=16)),
    st.builds(messages.ActionOrder, st.binary(max_size=4096)),
    st.builds(messages.ActionReport, numbers, st.binary(max_size=4096)),
    st.builds(messages.ActionReportAck, numbers),
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Channel, Channel]]:
    with ExitStack() as stack:
        listener = stack.enter_context(closing(Listener(tmp_path / "door", allowed_uids={os.geteuid()})))
        near = stack.enter_context(closing(connect(tmp_path / "door", allowed_uids={os.geteuid()})))
        far = listener.accept()
        assert far is not None
        yield near, stack.enter_context(closing(far))


@given(message=any_message)
def test_every_message_comes_out_as_it_went_in(message: messages.Message) -> None:
    assert messages.decode_message(messages.encode_message(message)) == message


@given(raw=st.binary(max_size=128))
def test_any_bytes_are_a_message_or_a_message_error(raw: bytes) -> None:
    try:
        messages.decode_message(raw)
    except IpcMessageError:
        return


@given(message=any_message, version=st.integers(0, 255).filter(lambda version: version != messages.VERSION))
def test_another_version_is_not_understood(message: messages.Message, version: int) -> None:
    raw = bytearray(messages.encode_message(message))
    raw[1] = version

    with pytest.raises(IpcMessageError, match="version"):
        messages.decode_message(bytes(raw))


def test_a_long_text_is_cut_between_characters() -> None:
    cut = messages.decode_message(messages.encode_message(messages.SensorGreeting(uuid.uuid4(), "é" * 1000 + "x")))

    assert isinstance(cut, messages.SensorGreeting)
    assert cut.collector == "é" * 512


def test_an_order_larger_than_a_datagram_is_refused_where_it_is_sent() -> None:
    with pytest.raises(IpcMessageError, match="more than a datagram"):
        messages.encode_message(messages.ActionOrder(bytes(messages.MAX_DATAGRAM_BYTES)))


def test_messages_travel_both_ways_and_stay_whole(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    first, second = messages.ActionReportAck(1), messages.ActionOrder(b"x" * 16384)

    assert near.send(first)
    assert near.send(second)
    assert far.send(messages.SessionNonce(bytes(16)))

    assert [far.receive(), far.receive(), far.receive()] == [first, second, None]
    assert near.receive() == messages.SessionNonce(bytes(16))


def test_a_full_queue_is_said_and_loses_nothing(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    sent = 0
    while near.send(messages.ActionReportAck(sent)):
        sent += 1

    assert [far.receive() for _ in range(sent)] == [messages.ActionReportAck(number) for number in range(sent)]
    assert far.receive() is None
    assert near.send(messages.ActionReportAck(sent))


def test_a_closed_peer_is_an_error_on_both_sides_of_the_call(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    far.close()

    with pytest.raises(IpcClosedError):
        near.receive()
    with pytest.raises(IpcClosedError):
        near.send(messages.ActionReportAck(1))


def test_a_datagram_cut_by_the_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with (
        closing(Listener(path, allowed_uids={os.geteuid()})) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw,
    ):
        raw.connect(str(path))
        far = listener.accept()
        assert far is not None
        raw.send(bytes(messages.MAX_DATAGRAM_BYTES + 1))

        with closing(far), pytest.raises(IpcMessageError, match="larger"):
            far.receive()


def test_nobody_listening_is_a_closed_door(tmp_path: Path) -> None:
    with pytest.raises(IpcClosedError):
        connect(tmp_path / "door", allowed_uids={0})


def test_a_new_listener_replaces_a_socket_that_was_left_over(tmp_path: Path) -> None:
    path = tmp_path / "door"
    Listener(path, allowed_uids={os.geteuid()}).close()

    with (
        closing(Listener(path, allowed_uids={os.geteuid()})),
        closing(connect(path, allowed_uids={os.geteuid()})) as near,
    ):
        assert near.send(messages.ActionReportAck(1))


@pytest.mark.root
def test_a_stranger_is_turned_away_before_a_byte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "door"
    listener = Listener(path, allowed_uids={1})
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    path.chmod(0o666)
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
            raw.connect(str(path))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    with closing(listener):
        assert listener.accept() is None
        assert listener.refused_total == 1


@pytest.mark.root
def test_a_door_that_a_stranger_made_is_not_entered(tmp_path: Path) -> None:
    path = tmp_path / "door"
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
            raw.bind(str(path))
            raw.listen()
            os.write(ready[1], b".")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(IpcPeerError, match="65534"):
            connect(path, allowed_uids={1})
    finally:
        os.write(done[1], b".")
        os.waitpid(child, 0)
