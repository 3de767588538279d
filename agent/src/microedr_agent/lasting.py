"""The start of what runs for as long as the host: arguments and settings are read in a child.

What it takes to read them (argparse, PyYAML: 5 MB) would otherwise stay in the memory of the supervisor
and of each of its children.
"""

import os
import pickle
import sys
from collections.abc import Sequence

from microedr_agent.config import AgentConfig
from microedr_agent.errors import AgentError

LASTING = frozenset({"run", "sensor", "uploader", "responder"})
"""Commands that are worth it."""

EXIT_UNUSABLE = 2
"""The configuration, a file or the host does not allow it; one line says what."""


def run_lasting(arguments: Sequence[str]) -> int:
    """Carry out the command line ``arguments``, which begins with one of ``LASTING``; returns the exit status."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _answer(write_fd, arguments)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not answer:
        # It said on standard error what is wrong, or printed the help.
        return max(os.waitstatus_to_exitcode(status), 0) if os.WIFEXITED(status) else 1
    config: AgentConfig = pickle.loads(answer)  # noqa: S301 - our own child wrote it
    from microedr_agent.roles import ROLES  # noqa: PLC0415 - after the fork, which shall be small

    try:
        return ROLES[arguments[0]](config)
    except AgentError as error:
        sys.stderr.write(f"microedr-agent: {error}\n")
        return EXIT_UNUSABLE


def _answer(write_fd: int, arguments: Sequence[str]) -> None:
    """Write the settings, or say what is wrong with them; never returns."""
    status = 1
    try:
        from microedr_agent.cli import load  # noqa: PLC0415 - in the child alone

        try:
            answer = pickle.dumps(load(arguments).config)
        except AgentError as error:
            sys.stderr.write(f"microedr-agent: {error}\n")
            status = EXIT_UNUSABLE
        else:
            with os.fdopen(write_fd, "wb") as pipe:
                pipe.write(answer)
            status = 0
    except SystemExit as ended:  # argparse, after a wrong argument or --help
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
