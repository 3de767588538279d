"""Events that ingest takes over mutual TLS, checks, publishes and acks, per second of its own CPU.

``python -m tools.bench.ingest_kafka [--bus URL] [--streams N] [--seconds S]``. Without a bus a Kafka broker is
started with tools/kafka. Ingest runs as its users run it, ``python -m microedr_ingest``; another process holds
the streams and sends frames of 100 events as fast as they are acked. Its CPU includes the Kafka client's threads.
The baseline is what one core does when it only opens and checks the same frames.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import uvloop
from tools.bench.report import ROOT, report

from microedr.batch import encode_batch
from microedr.frame import FIRST_CHAIN, VERSION, seal
from microedr.limits import MAX_MESSAGE_BYTES
from microedr.v1.event_pb2 import NET_DIRECTION_EGRESS, NET_PHASE_CLOSE, AgentEvent, EventBatch
from microedr.v1.transport_pb2 import Frame, Hello, StreamRequest, StreamResponse
from microedr.v1.transport_pb2_grpc import IngestServiceStub
from microedr_chassis.identity import SpiffeId, ensure_pki
from microedr_ingest.frames import check_frame

TARGET_EVENTS_PER_S = 400_000
EVENTS_PER_FRAME = 100
FRAMES_PER_STREAM = 40
RUNS = 3
WARM_UP_S = 2.0
READY_TIMEOUT_S = 60.0
TENANT = "bench"
PARENTS = tuple(bytes([number]) * 16 for number in range(40))
CONTAINERS = tuple(random.Random(number).randbytes(32).hex() for number in range(16))  # noqa: S311 - the same always


def event(seqno: int, dice: random.Random) -> AgentEvent:
    """One event of a busy server, near 290 bytes: half of them exits and connections, half execs."""
    made = AgentEvent(
        seqno=seqno,
        timestamp_unix_ns=time.time_ns(),
        timestamp_boot_ns=10**12 + seqno * 10**6,
        process_uid=dice.randbytes(16),
    )
    process = made.process
    process.pid, process.ppid = dice.randrange(1, 1 << 22), dice.randrange(1, 1 << 22)
    process.start_boot_ns = 10**12 + seqno * 10**6
    process.exe = dice.choice(("/usr/bin/python3.11", "/usr/bin/curl", "/usr/lib/postgresql/15/bin/postgres"))
    process.comm, process.user, process.uid = process.exe.rpartition("/")[2], "app", 1000
    process.parent_process_uid = dice.choice(PARENTS)
    process.cmdline = f"{process.exe} --config /etc/app/{dice.randrange(1000)}.yaml --shard {dice.randrange(64)}"
    made.container.container_id = dice.choice(CONTAINERS)
    match seqno % 4:
        case 0:
            made.proc_exit.exit_code, made.proc_exit.duration_ns = 0, dice.randrange(1 << 40)
        case 1:
            net = made.net_conn
            net.proto, net.direction, net.phase = "tcp", NET_DIRECTION_EGRESS, NET_PHASE_CLOSE
            net.src_ip, net.dst_ip = dice.randbytes(4), dice.randbytes(4)
            net.src_port, net.dst_port, net.bytes_out = dice.randrange(1 << 16), 443, dice.randrange(1 << 20)
        case _:
            made.proc_exec.argv.extend(process.cmdline.split(" "))
            made.proc_exec.env_keys.extend(("PATH", "HOME", "LANG"))
    return made


def frames(host_id: str) -> list[bytes]:
    """Sealed frames of one host, in sequence."""
    dice, epoch, chain, out = random.Random(host_id), uuid.uuid4(), FIRST_CHAIN, []  # noqa: S311 - the same load always
    for number in range(FRAMES_PER_STREAM):
        first = 1 + number * EVENTS_PER_FRAME
        batch = EventBatch(events=[event(first + n, dice) for n in range(EVENTS_PER_FRAME)])
        batch.events[0].host.host_id = host_id
        one = seal(
            encode_batch(batch),
            lane=0,
            epoch=epoch,
            first_seq=first,
            count=EVENTS_PER_FRAME,
            sealed_unix_ns=time.time_ns(),
            previous_chain=chain,
        )
        out.append(one.sealed)
        chain = one.chain
    return out


class Streamer:
    """One stream that keeps its window full; the same frames again and again, ingest remembers none."""

    def __init__(self, target: str, pki: Path, number: int) -> None:
        self.acked_events = 0
        self._host_id = f"host-{number}"
        paths = ensure_pki(pki / self._host_id, tenant_id=TENANT, host_id=self._host_id)
        credentials = grpc.ssl_channel_credentials(
            (pki / "server-ca.crt").read_bytes(), paths.agent_key.read_bytes(), paths.agent_cert.read_bytes()
        )
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES))
        self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        self._requests = [StreamRequest(frame=Frame(sealed=one)) for one in frames(self._host_id)]
        self._sent_events = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        call = IngestServiceStub(self._channel).Stream()  # type: ignore[call-arg] # grpc.aio needs no iterator
        await call.write(StreamRequest(hello=Hello(host_id=self._host_id, frame_version=VERSION)))
        welcome = await call.read()
        if not isinstance(welcome, StreamResponse):
            raise RuntimeError(f"the stream ended: {await call.code()}, {await call.details()}")  # noqa: TRY004 - no matter of type
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(call))
            group.create_task(self._write(call, welcome.welcome.window_frames * EVENTS_PER_FRAME))

    async def _write(self, call: "grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]", window: int) -> None:
        while True:
            for request in self._requests:
                while self._sent_events - self.acked_events >= window:
                    self._room.clear()
                    await self._room.wait()
                self._sent_events += EVENTS_PER_FRAME
                await call.write(request)

    async def _read(self, call: "grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]") -> None:
        last = 0
        while isinstance(response := await call.read(), StreamResponse):
            if response.HasField("refusal"):
                raise RuntimeError(f"refused: {response.refusal}")
            if response.HasField("ack"):
                through = response.ack.through_seq
                # Each round through the frames begins at sequence 1 again.
                self.acked_events += through - last if through > last else through - last + self._round
                last = through
                self._room.set()
        raise RuntimeError(f"the stream ended: {await call.code()}, {await call.details()}")

    @property
    def _round(self) -> int:
        return FRAMES_PER_STREAM * EVENTS_PER_FRAME


async def client(target: str, pki: Path, streams: int) -> None:
    """Hold the streams; for each line on stdin print the events acked so far."""
    all_streams = [Streamer(target, pki, number) for number in range(streams)]
    async with asyncio.TaskGroup() as group:
        for one in all_streams:
            group.create_task(one.run())
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(sum(one.acked_events for one in all_streams), flush=True)
        os._exit(0)  # whoever asked is gone; gRPC would wait for streams that never end


@contextmanager
def ingest(bus: str, directory: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Ingest in a process of its own; yields it and its address."""
    paths = ensure_pki(directory / "server", tenant_id=TENANT, host_id="unused")
    environment = {
        **os.environ,
        "MICROEDR_BUS": bus,
        "MICROEDR_INGEST_LISTEN": "127.0.0.1:0",
        "MICROEDR_INGEST_TLS_CERT_FILE": str(paths.server_cert),
        "MICROEDR_INGEST_TLS_KEY_FILE": str(paths.server_key),
        "MICROEDR_INGEST_CLIENT_CA_FILE": str(directory / "client-ca.crt"),
    }
    (directory / "server-ca.crt").write_bytes(paths.ca_cert.read_bytes())
    log = directory / "ingest.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "microedr_ingest"], env=environment, stderr=out, stdin=subprocess.DEVNULL
        ) as process,
    ):
        try:
            yield psutil.Process(process.pid), _address(log, process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        for line in log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "ingest_listening":
                return str(entry["listen"])
        time.sleep(0.1)
    raise RuntimeError(f"ingest did not start: {log.read_text()[-2000:]}")


def measure(bus: str, streams: int, seconds: float) -> float:
    """One run: events acked per second of ingest's CPU."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authorities = []
        for number in range(streams):
            paths = ensure_pki(directory / f"host-{number}", tenant_id=TENANT, host_id=f"host-{number}")
            authorities.append(paths.ca_cert.read_bytes())
        (directory / "client-ca.crt").write_bytes(b"".join(authorities))
        with ingest(bus, directory) as (process, address):
            target = f"localhost:{address.rpartition(':')[2]}"
            arguments = ["--client", target, "--pki", name, "--streams", str(streams)]
            with subprocess.Popen(
                [sys.executable, "-m", "tools.bench.ingest_kafka", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as agents:
                try:
                    return _sample(agents, process, seconds)
                finally:
                    agents.kill()


def _sample(agents: "subprocess.Popen[str]", process: psutil.Process, seconds: float) -> float:
    if agents.stdin is None or agents.stdout is None:
        raise RuntimeError("no pipes")
    agents.stdout.readline()

    def acked() -> int:
        if agents.stdin is None or agents.stdout is None:
            raise RuntimeError("no pipes")
        agents.stdin.write("\n")
        agents.stdin.flush()
        return int(agents.stdout.readline())

    time.sleep(WARM_UP_S)
    events, cpu, began_s = acked(), process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    events, spent, took_s = acked() - events, process.cpu_times(), time.monotonic() - began_s
    cpu_s = spent.user - cpu.user + spent.system - cpu.system
    print(
        f"  {events / cpu_s:,.0f} events/s per core: {events:,} events in {took_s:.1f} s, {cpu_s:.1f} s of CPU, "
        f"{process.memory_info().rss / 1e6:.0f} MB",
        flush=True,
    )
    return events / cpu_s


def checking_alone() -> float:
    """Events per second that one core opens and checks."""
    host = SpiffeId("microedr.local", TENANT, "host-0").host_id
    sealed = frames(host)
    began_s = time.process_time()
    for _ in range(50):
        for one in sealed:
            check_frame(one, host)
    return 50 * len(sealed) * EVENTS_PER_FRAME / (time.process_time() - began_s)


def started_kafka() -> str:
    """A broker on this machine."""
    subprocess.run([ROOT / "tools" / "kafka", "start", "--optimise"], check=True)
    place = json.loads((ROOT / "build" / "kafka" / "broker" / "kafka.json").read_text())
    return f"kafka://{place['bootstrap']}"


def main() -> None:
    """The client, or the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", help="memory, sqlite:///path or kafka://host:port")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--pki", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(client(options.client, options.pki, options.streams))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes started here end too
    bus = options.bus or started_kafka()
    values = [measure(bus, options.streams, options.seconds) for _ in range(RUNS)]
    report(
        "ingest-kafka" if bus.startswith("kafka") else f"ingest-{bus.partition(':')[0]}",
        values,
        unit="events/s",
        target=TARGET_EVENTS_PER_S,
        higher_is_better=True,
        baseline=checking_alone(),
        baseline_is="one core opening and checking the same frames",
        notes=f"{options.streams} streams, frames of {EVENTS_PER_FRAME} events of "
        f"{len(encode_batch(EventBatch(events=[event(n, random.Random(1)) for n in range(100)]))) // 100} bytes",  # noqa: S311 - no secret
    )


if __name__ == "__main__":
    main()
