"""The uploader's process: gives up what it does not need, then connects and streams until it is told to stop."""

import os
import sys

from microedr_agent import privileges, seccomp
from microedr_agent.child import ChildContext
from microedr_agent.config import AgentConfig
from microedr_agent.errors import ConfigError
from microedr_agent.log import Log
from microedr_agent.spool.directory import prepare_directory
from microedr_agent.uploader.credentials import Credentials

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
    seccomp.prepare()
    go_without("_hashlib", "ssl")
    # Imported here, not above: gRPC takes most of the memory, and no other process of the agent may load it. And
    # not later: where Python or the agent is installed need not be readable to the user this process becomes.
    from microedr_agent.uploader.sessions import run_sessions  # noqa: PLC0415 - see above

    _give_up_privileges(config, log)
    return run_sessions(config, credentials, directory_fd, log, context.announce)


def go_without(*modules: str) -> None:
    """Let imports of these fail, unless they are loaded already.

    hashlib then takes Python's own hashes and asyncio has no TLS, which gRPC brings itself: 5 MB of OpenSSL less.
    """
    for module in modules:
        sys.modules.setdefault(module, None)  # type: ignore[arg-type] # None is how an import is told to fail


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
    privileges.become(config.run_as.uploader_uid, config.run_as.gid)
    problem = seccomp.enter(seccomp.Room.UPLOADER)
    if problem:
        log.warning("hardening_incomplete", problem=f"seccomp: {problem}")
