"""What the running kernel tells of a TCP connection is what its two ends did."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from microedr.v1.event_pb2 import AgentEvent, NetDirection, NetPhase
from support.eyes import Eyes

pytestmark = pytest.mark.root
EGRESS = NetDirection.NET_DIRECTION_EGRESS
INGRESS = NetDirection.NET_DIRECTION_INGRESS
OPEN, FAILED, CLOSE = NetPhase.NET_PHASE_OPEN, NetPhase.NET_PHASE_FAILED, NetPhase.NET_PHASE_CLOSE
V4, V6 = "127.0.0.1", "::1"


@pytest.fixture(scope="module")
def eyes() -> Iterator[Eyes]:
    made = Eyes()
    with contextlib.closing(made):
        yield made


def listen(address: str, family: int) -> socket.socket:
    return socket.create_server((address, 0), family=family)


def seen(eyes: Eyes, phase: int, direction: int, own_port: int) -> AgentEvent:
    return eyes.wait_for(
        lambda event: (
            (event.net_conn.phase, event.net_conn.direction, event.net_conn.src_port) == (phase, direction, own_port)
        )
    )


@pytest.mark.parametrize(
    ("address", "family"), [pytest.param(V4, socket.AF_INET, id="IPv4"), pytest.param(V6, socket.AF_INET6, id="IPv6")]
)
@pytest.mark.parametrize("client_closes_first", [1, 0])
def test_both_ends_of_a_connection_are_told(
    eyes: Eyes, address: str, family: socket.AddressFamily, client_closes_first: int
) -> None:
    with listen(address, family) as server:
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
        client.sendall(b"x" * 1000)
        accepted.sendall(b"y" * 333)
        accepted.recv(2000)
        client.recv(2000)
        client_port, server_port = client.getsockname()[1], server.getsockname()[1]
        for end in (client, accepted) if client_closes_first else (accepted, client):
            end.close()
    opened = seen(eyes, OPEN, EGRESS, client_port)
    taken = eyes.wait_for(lambda event: event.net_conn.direction == INGRESS and event.net_conn.dst_port == client_port)
    closed = seen(eyes, CLOSE, EGRESS, client_port)
    let_go = eyes.wait_for(
        lambda event: (
            event.net_conn.phase == CLOSE
            and event.net_conn.direction == INGRESS
            and event.net_conn.dst_port == client_port
        )
    )
    raw = socket.inet_pton(family, address)

    assert (opened.net_conn.proto, opened.net_conn.dst_port) == ("tcp", server_port)
    assert (opened.net_conn.src_ip, opened.net_conn.dst_ip) == (raw, raw)
    assert (taken.net_conn.phase, taken.net_conn.src_port) == (OPEN, server_port)
    assert (taken.net_conn.src_ip, taken.net_conn.dst_ip) == (raw, raw)
    assert (closed.net_conn.bytes_out, closed.net_conn.bytes_in) == (1000, 333)
    assert (let_go.net_conn.bytes_out, let_go.net_conn.bytes_in) == (333, 1000)
    assert {event.process.pid for event in (opened, taken, closed, let_go)} == {os.getpid()}
    assert 0 < opened.net_conn.duration_ns <= closed.net_conn.duration_ns


def test_a_refused_connection_is_told_as_failed(eyes: Eyes) -> None:
    with listen(V4, socket.AF_INET) as server:
        port = server.getsockname()[1]
    with socket.socket() as client:
        client.bind((V4, 0))
        own_port = client.getsockname()[1]
        assert client.connect_ex((V4, port)) != 0
    event = seen(eyes, FAILED, EGRESS, own_port)

    assert (event.net_conn.dst_ip, event.net_conn.dst_port) == (socket.inet_aton(V4), port)
    assert (event.net_conn.bytes_out, event.net_conn.bytes_in) == (0, 0)


def test_a_connection_over_a_mapped_address_is_ipv4(eyes: Eyes) -> None:
    with listen(V4, socket.AF_INET) as server, socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{V4}", server.getsockname()[1]))
        port = client.getsockname()[1]
    event = seen(eyes, OPEN, EGRESS, port)

    assert event.net_conn.dst_ip == event.net_conn.src_ip == socket.inet_aton(V4)


def test_a_connection_nobody_accepted_has_one_end(eyes: Eyes) -> None:
    with listen(V4, socket.AF_INET) as server:
        client = socket.create_connection(server.getsockname())
        port = client.getsockname()[1]
        client.close()
    seen(eyes, CLOSE, EGRESS, port)

    assert not [event for event in eyes.look() if event.net_conn.dst_port == port]


def test_a_reset_connection_is_closed(eyes: Eyes) -> None:
    with listen(V4, socket.AF_INET) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        port = client.getsockname()[1]
        client.sendall(b"abc")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        accepted.close()
    event = seen(eyes, CLOSE, EGRESS, port)

    assert event.net_conn.bytes_out == 3
