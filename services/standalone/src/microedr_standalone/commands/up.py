"""``microedr up``: the whole system on this machine."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from microedr_standalone.state import default_state_dir


def up(  # noqa: PLR0913 - one parameter per option
    *,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help="Where everything is kept.", show_default=False)
    ] = None,
    api_listen: Annotated[str, typer.Option("--api-listen", help="HOST:PORT of the API.")] = "127.0.0.1:8443",
    ingest_listen: Annotated[str, typer.Option("--ingest-listen", help="HOST:PORT for agents.")] = "127.0.0.1:9443",
    bus: Annotated[str, typer.Option("--bus", help="sqlite, memory, or kafka://host:port,…")] = "sqlite",
    postgres: Annotated[str, typer.Option("--postgres", help="embedded, or a DSN.")] = "embedded",
    no_agent: Annotated[bool, typer.Option("--no-agent", help="Run the backend alone.")] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", help="A JSON object appears here when everything is ready.", show_default=False),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="Of the lines on stderr.")
    ] = "warning",
) -> None:
    """Run the whole system on this machine: bus, PostgreSQL, every service, and as root the agent.

    Ctrl-C stops everything in order; the next start goes on where this one ended.
    """
    # The agent is started by fork and exec: gRPC has nothing to prepare for that, and complains when it tries.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from microedr_standalone.up import UpOptions, run  # noqa: PLC0415 - the services load only when needed

    run(
        UpOptions(
            state_dir=(state_dir or default_state_dir()).absolute(),
            api_listen=api_listen,
            ingest_listen=ingest_listen,
            bus=bus,
            postgres=postgres,
            with_agent=not no_agent,
            ready_file=ready_file.absolute() if ready_file else None,
            log_level=log_level,
        )
    )
