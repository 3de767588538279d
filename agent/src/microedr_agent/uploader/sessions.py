"""One stream after the other, for as long as the uploader runs, with a pause in between that grows."""

import asyncio
import gc
import os
import signal
import time
from pathlib import Path

import grpc.aio

from microedr.limits import MAX_MESSAGE_BYTES
from microedr_agent.child import Announce
from microedr_agent.config import AgentConfig
from microedr_agent.errors import CredentialsError, ServerLiedError, StreamBrokenError
from microedr_agent.log import Log
from microedr_agent.spool.reader import SpoolReader
from microedr_agent.uploader.backoff import Backoff
from microedr_agent.uploader.credentials import Credentials
from microedr_agent.uploader.hello import HelloMaker
from microedr_agent.uploader.links import ResponderLink, SensorLink
from microedr_agent.uploader.stream import IngestStream

GREETING_TIMEOUT_S = 2.0
"""The first hello waits this long for sensor and responder; what comes later begins a new stream."""
SETTLED_S = 10.0
"""A stream that lived this long was a good one: the next pause is short again."""
DRAIN_S = 0.7
"""When told to stop: time to send what the sensor, which is stopped first, left behind."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Each connection uses the certificates of its own time; nothing is shared with an earlier one.
    ("grpc.use_local_subchannel_pool", 1),
    # A stream that breaks is begun anew here, with a new hello.
    ("grpc.enable_retries", 0),
)


def run_sessions(config: AgentConfig, credentials: Credentials, directory_fd: int, log: Log, announce: Announce) -> int:
    """Run in this thread until SIGTERM or SIGINT; returns the exit status."""

    async def run() -> None:
        sessions = Sessions(config, credentials, SpoolReader(config.spool.dir, directory_fd), log, announce)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, sessions.stop)
        await sessions.run()

    asyncio.run(run())
    log.info("uploader_stopped")
    return 0


class Sessions:
    """Keeps the agent connected."""

    def __init__(  # noqa: PLR0913 - its surroundings
        self,
        config: AgentConfig,
        credentials: Credentials,
        reader: SpoolReader,
        log: Log,
        announce: Announce,
        *,
        greeting_timeout_s: float = GREETING_TIMEOUT_S,
    ) -> None:
        """Build everything; ``run`` starts it.

        Args:
            config: Where ingest is, who the peers are.
            credentials: Of this host.
            reader: Of the spool.
            log: Of this process.
            announce: Tells the supervisor's status page.
            greeting_timeout_s: As the constant says.
        """
        self._target = config.ingest.target
        self._credentials = credentials
        self._reader = reader
        self._log = log
        self._announce = announce
        self._greeting_timeout_s = greeting_timeout_s
        self._hello = HelloMaker(config.host_id)
        # Without root all processes share one user. Names within the working directory, which is the run directory.
        own = os.geteuid()
        self._sensor = SensorLink(
            Path(config.sensor_socket.name), {config.run_as.sensor_uid, own}, log, reader=reader, wake=self._changed
        )
        self._responder = ResponderLink(Path(config.responder_socket.name), {own}, log, wake=self._changed)
        self._stream: IngestStream | None = None
        self._streamed_hello = self._hello.make(None, b"")
        self._stop = asyncio.Event()
        self._last_problem = ""

    def stop(self) -> None:
        """Finish what is under way and return from ``run``, within some seconds."""
        self._stop.set()
        if self._stream is not None:
            self._stream.stop(drain_s=DRAIN_S)

    async def run(self) -> None:
        """Until ``stop``."""
        async with asyncio.TaskGroup() as links:
            tasks = [links.create_task(self._sensor.run()), links.create_task(self._responder.run())]
            try:
                await self._greetings()
                await self._connect_again_and_again()
            finally:
                for task in tasks:
                    task.cancel()
        self._reader.close()

    async def _greetings(self) -> None:
        try:
            async with asyncio.timeout(self._greeting_timeout_s):
                await self._sensor.greeted.wait()
                await self._responder.greeted.wait()
        except TimeoutError:
            return

    async def _connect_again_and_again(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            self._streamed_hello = self._hello.make(self._sensor.greeting, self._responder.nonce)
            self._stream = IngestStream(
                self._streamed_hello,
                self._reader,
                self._sensor,
                self._responder,
                self._log,
                on_welcome=lambda: self._announce({"connected": True, "problem": ""}),
            )
            began_s = time.monotonic()
            lied = False
            try:
                # In a task of its own: Python before 3.11.4 leaves the cancellation that ended a TaskGroup behind
                # in the task, and every timeout in it becomes a cancellation from then on.
                await asyncio.create_task(self._connect(self._stream), name="stream")
                self._last_problem = ""
                backoff.reset()
            except (StreamBrokenError, CredentialsError) as error:
                self._tell(str(error))
            except ServerLiedError as error:
                lied = True
                self._log.error("server_lied", error=str(error))
                self._announce({"connected": False, "problem": str(error)})
            was_good = self._stream.welcomed and time.monotonic() - began_s >= SETTLED_S
            self._stream = None
            self._reader.rewind()
            if was_good and not lied:
                backoff.reset()
            await self._pause(backoff.next_s())

    async def _connect(self, stream: IngestStream) -> None:
        pem = self._credentials.read()
        credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.chain)
        async with grpc.aio.secure_channel(self._target, credentials, options=_OPTIONS) as channel:
            # What is there now stays; collections need not look at it again.
            gc.collect()
            gc.freeze()
            await stream.run(channel)

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._stop.wait()
        except TimeoutError:
            return

    def _tell(self, problem: str) -> None:
        """Log a problem once, not at each try."""
        write = self._log.debug if problem == self._last_problem else self._log.warning
        write("ingest_disconnected", target=self._target, problem=problem)
        self._last_problem = problem
        self._announce({"connected": False, "problem": problem})

    def _changed(self) -> None:
        """A link took something: promises, reports, another sensor or responder."""
        stream = self._stream
        if stream is None:
            return
        if self._hello.make(self._sensor.greeting, self._responder.nonce) != self._streamed_hello:
            stream.stop()
        else:
            stream.wake()
