"""The uploader's process: gives up what it does not need, then connects and streams until it is told to stop."""

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from microedr_agent import privileges, seccomp
from microedr_agent.child import ChildContext
from microedr_agent.config import AgentConfig
from microedr_agent.errors import ConfigError
from microedr_agent.log import Log
from microedr_agent.spool.directory import prepare_directory
from microedr_agent.spool.reader import SpoolReader
from microedr_agent.uploader.credentials import Credentials

if TYPE_CHECKING:
    from microedr_agent.uploader.sessions import Sessions

_ROOT = 0


def run_uploader(config: AgentConfig, context: ChildContext) -> int:
    """Run in this process until SIGTERM or SIGINT; returns the exit status.

    Args:
        config: All of it; the spool, the run directory and ingest are used.
        context: What whoever started this process did for it.

    Raises:
        ConfigError, CredentialsError, SpoolError: Nothing was started.
    """
    log = Log("uploader", config.log_level, host_id=config.host_id)
    privileges.name_process("medr-uploader")
    credentials = Credentials(config.ingest.mtls)
    credentials.check()
    directory_fd = _open_spool(config)
    _enter_run_dir(config)
    # Imported here, not above: gRPC takes most of the memory, and no other process of the agent may load it. And
    # not later: where Python or the agent is installed need not be readable to the user this process becomes.
    from microedr_agent.uploader.sessions import Sessions  # noqa: PLC0415 - see above

    _give_up_privileges(config, log)
    sessions = Sessions(config, credentials, SpoolReader(config.spool.dir, directory_fd), log, context.announce)
    return asyncio.run(_run(sessions, log))


def _open_spool(config: AgentConfig) -> int:
    """A descriptor of the spool's directory; -1 when it has to be opened later, by this process's user."""
    if os.geteuid() == _ROOT:
        prepare_directory(config)
    try:
        return os.open(config.spool.dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1  # the sensor makes it


def _enter_run_dir(config: AgentConfig) -> None:
    """Make it the working directory: its sockets can then be reached wherever it lies."""
    try:
        os.chdir(config.run_dir)
    except OSError as error:
        raise ConfigError(f"run_dir: {config.run_dir}: {error.strerror}") from error


def _give_up_privileges(config: AgentConfig, log: Log) -> None:
    seccomp.prepare()
    privileges.become(config.run_as.uploader_uid, config.run_as.gid)
    problem = seccomp.enter(seccomp.Room.UPLOADER)
    if problem:
        log.warning("hardening_incomplete", problem=f"seccomp: {problem}")


async def _run(sessions: "Sessions", log: Log) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sessions.stop)
    await sessions.run()
    log.info("uploader_stopped")
    return 0
