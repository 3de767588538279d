"""The uploader delivers what the sensor promised to a server that may lie, refuse or go away."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from microedr.v1.action_pb2 import ActionResult, ActionState, SignedAction
from microedr.v1.transport_pb2 import RefusalReason
from microedr_agent.config import AgentConfig, IngestConfig, MtlsConfig, RunAsConfig, SpoolConfig
from microedr_agent.ipc import Channel, Listener
from microedr_agent.ipc_messages import ActionOrder, ActionReport, ActionReportAck, Message, SessionNonce
from microedr_agent.log import Log
from microedr_agent.spool.accounts import LossReason
from microedr_agent.spool.door import SpoolDoor
from microedr_agent.spool.reader import SpoolReader
from microedr_agent.spool.writer import SpoolWriter
from microedr_agent.uploader.credentials import Credentials
from microedr_agent.uploader.sessions import Sessions
from support import lying_ingest as liar
from support.certificates import Authority, CertificateRequest
from support.lying_ingest import LyingIngest, running_liar
from support.spools import MIB, append
from support.waiting import PATIENCE_S, eventually

NONCE = bytes(range(16))


@dataclass
class Sensor:
    """The spool and its door, served by the test's own loop."""

    config: AgentConfig
    writer: SpoolWriter
    door: SpoolDoor

    def emit(self, frames: int = 1, count: int = 1) -> None:
        """Frames, each promised by itself."""
        for _ in range(frames):
            append(self.writer, count)
            self.door.offer(self.writer.commit())

    async def serve(self) -> None:
        """The sensor's loop."""
        while True:
            self.door.poll()
            await asyncio.sleep(0.01)

    async def until_acked(self, events: int) -> None:
        """So many events of this epoch have arrived."""
        await eventually(lambda: self.writer.statistics().acked_total >= events)


@dataclass
class Responder:
    """Speaks for the responder: one uploader, messages in order."""

    listener: Listener
    channel: Channel | None = None

    async def meet(self) -> Channel:
        """The uploader, once it is there."""
        self.channel = await eventually(self.listener.accept)
        assert self.channel is not None
        return self.channel

    async def hear(self) -> Message:
        """What it says next."""
        assert self.channel is not None
        message = await eventually(self.channel.receive)
        assert message is not None
        return message


@dataclass
class Rig:
    """Everything around one uploader."""

    config: AgentConfig
    authority: Authority
    sensor: Sensor
    logged: list[str]
    sessions: Sessions | None = None


def agent_config(directory: Path, port: int, authority: Authority) -> AgentConfig:
    own = authority.issue(CertificateRequest())
    for name, content in (("ca", authority.cert_pem), ("key", own.key_pem), ("cert", own.cert_pem)):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    mtls = MtlsConfig(cert_file=directory / "cert", key_file=directory / "key", ca_file=directory / "ca")
    (directory / "run").mkdir(exist_ok=True)
    uid = os.geteuid()
    return AgentConfig(
        tenant_id="acme",
        host_id="host-a",
        ingest=IngestConfig(url=f"https://localhost:{port}", mtls=mtls),
        spool=SpoolConfig(dir=directory / "spool"),
        run_as=RunAsConfig(sensor_uid=uid, uploader_uid=uid, gid=os.getegid()),
        run_dir=directory / "run",
    )


def _announce(_facts: object) -> None:
    return


class NotingLog(Log):
    """Keeps events for the test."""

    def __init__(self, events: list[str]) -> None:
        super().__init__("uploader", "debug")
        self.events = events

    def _write(self, _level: int, event: str, _fields: dict[str, object]) -> None:
        self.events.append(event)


@asynccontextmanager
async def uploading(config: AgentConfig, logged: list[str]) -> AsyncIterator[Sessions]:
    credentials = Credentials(config.ingest.mtls)
    sessions = Sessions(
        config, credentials, SpoolReader(config.spool.dir), NotingLog(logged), _announce, greeting_timeout_s=0.3
    )
    running = asyncio.create_task(sessions.run())
    try:
        yield sessions
    finally:
        sessions.stop()
        async with asyncio.timeout(PATIENCE_S):
            await running
        credentials.close()


@pytest.fixture
async def sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[int], Rig]]:
    authority = Authority()
    rigs: list[Rig] = []
    tasks: list[asyncio.Task[None]] = []

    def build(port: int) -> Rig:
        config = agent_config(tmp_path, port, authority)
        monkeypatch.chdir(config.run_dir)
        writer = SpoolWriter.open(config.spool.dir, 16 * MIB)
        door = SpoolDoor(config.sensor_socket, writer, uploader_uid=os.geteuid(), collector="ebpf")
        rig = Rig(config, authority, Sensor(config, writer, door), [])
        rigs.append(rig)
        tasks.append(asyncio.create_task(rig.sensor.serve()))
        return rig

    build.authority = authority  # type: ignore[attr-defined]
    yield build
    for task in tasks:
        task.cancel()
    for rig in rigs:
        rig.sensor.door.close()
        rig.sensor.writer.close()


@asynccontextmanager
async def everything(build: Callable[[int], Rig], server: LyingIngest) -> AsyncIterator[tuple[Rig, LyingIngest]]:
    async with running_liar(build.authority, server) as ingest:  # type: ignore[attr-defined]
        rig = build(int(ingest.target.rpartition(":")[2]))
        async with uploading(rig.config, rig.logged) as rig.sessions:
            yield rig, ingest


BuildRig = Callable[[int], Rig]


async def test_everything_promised_is_sent_and_acknowledged_in_order(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest()) as (rig, ingest):
        rig.sensor.emit(frames=30, count=3)
        await rig.sensor.until_acked(90)

        assert [frame.first_seq for frame in ingest.frames] == list(range(1, 91, 3))
        assert ingest.most_unanswered <= ingest.window_frames
        hello = ingest.hellos[0]
        assert (hello.host_id, hello.epoch_id, hello.collector) == ("host-a", rig.sensor.writer.epoch_id, "ebpf")
        assert hello.boot_id
        assert hello.session_nonce == b""


async def test_a_server_that_never_acknowledges_gets_one_window_and_no_more(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.say_nothing, window_frames=3)) as (rig, ingest):
        rig.sensor.emit(frames=10)
        await ingest.until(lambda: len(ingest.frames) >= 3)
        await asyncio.sleep(0.3)

        assert len(ingest.frames) == 3
        assert rig.sensor.writer.statistics().epoch_pending_events == 10


@pytest.mark.parametrize("lie", [liar.acknowledge_too_much, liar.acknowledge_another_epoch])
async def test_a_server_that_acknowledges_what_was_never_sent_is_not_believed(
    sensor: BuildRig, lie: liar.OnFrame
) -> None:
    async with everything(sensor, LyingIngest(on_frame=lie)) as (rig, ingest):
        rig.sensor.emit(frames=2)
        await ingest.until(lambda: len(ingest.hellos) >= 2)

        assert "server_lied" in rig.logged
        assert rig.sensor.writer.statistics().acked_total == 0
        ingest.on_frame = liar.acknowledge
        await rig.sensor.until_acked(2)


async def test_a_frame_that_is_put_off_is_sent_again_with_all_behind_it(sensor: BuildRig) -> None:
    put_off = liar.refuse(RefusalReason.REFUSAL_REASON_UNAVAILABLE, retryable=True, times=2, seq=2)
    async with everything(sensor, LyingIngest(on_frame=put_off, window_frames=1)) as (rig, ingest):
        rig.sensor.emit(frames=4)
        await rig.sensor.until_acked(4)

        assert [frame.first_seq for frame in ingest.frames] == [1, 2, 2, 2, 3, 4]
        assert rig.sensor.writer.take_losses() == ()
        assert len(ingest.hellos) == 1


async def test_a_frame_refused_for_good_becomes_a_loss_that_the_sensor_tells(sensor: BuildRig) -> None:
    never = liar.refuse(RefusalReason.REFUSAL_REASON_TOO_LARGE, retryable=False, times=99, seq=3)
    async with everything(sensor, LyingIngest(on_frame=never)) as (rig, _ingest):
        rig.sensor.emit(frames=3, count=2)
        await rig.sensor.until_acked(4)
        await eventually(lambda: rig.sensor.writer.statistics().refused_total == 2)

        (loss,) = rig.sensor.writer.take_losses()
        assert (loss.first_seq, loss.last_seq, loss.reason) == (3, 4, LossReason.REFUSED)
        assert rig.sensor.writer.statistics().pending_events == 0


async def test_after_a_broken_stream_what_had_no_answer_is_sent_again(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.hang_up)) as (rig, ingest):
        rig.sensor.emit(frames=3)
        await eventually(lambda: ingest.hung_up >= 2)
        ingest.on_frame = liar.acknowledge
        await rig.sensor.until_acked(3)

        assert len(ingest.hellos) == 3
        assert rig.logged.count("ingest_disconnected") >= 1


async def test_a_server_that_asks_for_a_pause_gets_it(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest()) as (rig, ingest):
        await ingest.until(lambda: bool(ingest.hellos))
        await ingest.flow(window_frames=1, pause_ms=700)
        await asyncio.sleep(0.2)
        rig.sensor.emit(frames=3)
        await asyncio.sleep(0.2)
        assert ingest.frames == []

        await rig.sensor.until_acked(3)
        assert ingest.most_unanswered == 1


async def test_a_server_that_comes_late_gets_everything(sensor: BuildRig) -> None:
    async with running_liar(sensor.authority, LyingIngest()) as first:  # type: ignore[attr-defined]
        port = int(first.target.rpartition(":")[2])
    rig = sensor(port)
    async with uploading(rig.config, rig.logged):
        rig.sensor.emit(frames=2)
        await eventually(lambda: "ingest_disconnected" in rig.logged)
        async with running_liar(sensor.authority, LyingIngest(), port):  # type: ignore[attr-defined]
            await rig.sensor.until_acked(2)


async def test_a_server_of_another_authority_gets_nothing(sensor: BuildRig) -> None:
    async with running_liar(Authority("other"), LyingIngest()) as ingest:
        rig = sensor(int(ingest.target.rpartition(":")[2]))
        async with uploading(rig.config, rig.logged):
            rig.sensor.emit()
            await eventually(lambda: "ingest_disconnected" in rig.logged)

            assert ingest.hellos == []


async def test_a_new_sensor_brings_a_new_stream_and_the_old_events_follow(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.say_nothing)) as (rig, ingest):
        rig.sensor.emit(frames=2)
        await ingest.until(lambda: len(ingest.frames) == 2)
        first = rig.sensor.writer
        rig.sensor.door.close()
        first.close()
        ingest.on_frame = liar.acknowledge
        second = SpoolWriter.open(rig.config.spool.dir, 16 * MIB)
        rig.sensor.writer = second
        rig.sensor.door = SpoolDoor(rig.config.sensor_socket, second, uploader_uid=os.geteuid())
        rig.sensor.emit(frames=1)
        await eventually(lambda: second.statistics().pending_events == 0)

        assert {hello.epoch_id for hello in ingest.hellos} == {first.epoch_id, second.epoch_id}
        assert ingest.sequences() == {(first.epoch_id, 1), (first.epoch_id, 2), (second.epoch_id, 1)}
        assert second.take_losses() == ()


async def test_what_a_sensor_promised_at_its_end_is_still_sent(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.say_nothing, window_frames=2)) as (rig, ingest):
        rig.sensor.emit(frames=2)
        await ingest.until(lambda: len(ingest.frames) == 2)
        append(rig.sensor.writer, count=3)
        rig.sensor.door.offer(rig.sensor.writer.close())
        rig.sensor.door.poll()
        rig.sensor.door.close()
        await eventually(lambda: "door_closed" in rig.logged)
        assert rig.sessions is not None
        rig.sessions.stop()
        await ingest.answer(ingest.contexts[-1], liar.ack_of(rig.sensor.writer.epoch_id, 2))

        await ingest.until(lambda: len(ingest.frames) == 3)
        assert (rig.sensor.writer.epoch_id, 5) in ingest.sequences()


async def test_the_nonce_travels_up_orders_down_and_results_until_they_have_arrived(sensor: BuildRig) -> None:
    order = SignedAction(action=os.urandom(300))
    result = ActionResult(action_id=str(uuid.uuid4()), state=ActionState.ACTION_STATE_EXECUTED)
    async with everything(sensor, LyingIngest()) as (rig, ingest):
        listener = Listener(rig.config.responder_socket, allowed_uids={os.geteuid()})
        with closing(listener):
            responder = Responder(listener)
            channel = await responder.meet()
            with closing(channel):
                channel.send(SessionNonce(NONCE))
                await ingest.until(lambda: ingest.hellos[-1].session_nonce == NONCE if ingest.hellos else False)
                await ingest.order(order)

                heard = await responder.hear()
                assert isinstance(heard, ActionOrder)
                assert SignedAction.FromString(heard.signed) == order
                channel.send(ActionReport(7, result.SerializeToString()))
                await ingest.until(lambda: ingest.results == [result])
                rig.sensor.emit()
                assert await responder.hear() == ActionReportAck(7)


async def test_a_result_that_may_not_have_arrived_is_sent_again(sensor: BuildRig) -> None:
    result = ActionResult(action_id="a", state=ActionState.ACTION_STATE_REFUSED, reason="replayed")
    async with everything(sensor, LyingIngest(on_frame=liar.hang_up)) as (rig, ingest):
        listener = Listener(rig.config.responder_socket, allowed_uids={os.geteuid()})
        with closing(listener):
            responder = Responder(listener)
            with closing(await responder.meet()) as channel:
                channel.send(SessionNonce(NONCE))
                channel.send(ActionReport(1, result.SerializeToString()))
                rig.sensor.emit()
                await eventually(lambda: ingest.hung_up >= 1 and len(ingest.results) >= 2)
                ingest.on_frame = liar.acknowledge

                assert await responder.hear() == ActionReportAck(1)


async def test_an_order_without_a_responder_is_dropped_and_counted(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest()) as (rig, ingest):
        await ingest.until(lambda: bool(ingest.hellos))
        await ingest.order(SignedAction(action=b"x"))
        await eventually(lambda: "order_dropped" in rig.logged)


async def test_a_damaged_frame_costs_its_events_and_nothing_behind_it(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.say_nothing, window_frames=1)) as (rig, ingest):
        rig.sensor.emit(frames=4, count=2)
        await ingest.until(lambda: len(ingest.frames) == 1)
        (segment,) = rig.config.spool.dir.glob("*.seg")
        content = bytearray(segment.read_bytes())
        second = content.index(b"MEF1", content.index(b"MEF1") + 1)
        content[second + 70] ^= 0xFF
        segment.write_bytes(content)
        ingest.on_frame = liar.acknowledge
        await ingest.answer(ingest.contexts[-1], liar.ack_of(rig.sensor.writer.epoch_id, 2))
        await rig.sensor.until_acked(6)
        await eventually(lambda: rig.sensor.writer.statistics().lost_total == 2)

        assert [frame.first_seq for frame in ingest.frames] == [1, 5, 7]
        (loss,) = rig.sensor.writer.take_losses()
        assert (loss.first_seq, loss.last_seq, loss.reason) == (3, 4, LossReason.SPOOL_CORRUPT)


async def test_certificates_are_read_again_at_each_connection(sensor: BuildRig) -> None:
    async with everything(sensor, LyingIngest(on_frame=liar.hang_up)) as (rig, ingest):
        await ingest.until(lambda: bool(ingest.hellos))
        key_file = rig.config.ingest.mtls.key_file
        good = key_file.read_bytes()
        key_file.write_bytes(b"not a key")
        rig.sensor.emit()
        await eventually(lambda: ingest.hung_up >= 1)
        seen = len(ingest.hellos)
        await asyncio.sleep(0.5)
        assert len(ingest.hellos) == seen
        key_file.write_bytes(good)
        ingest.on_frame = liar.acknowledge

        await rig.sensor.until_acked(1)
