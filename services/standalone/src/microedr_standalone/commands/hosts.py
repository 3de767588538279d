"""``microedr hosts``: which hosts report, and what they cannot see."""

import typer

from microedr_standalone.client import Client, find_endpoint
from microedr_standalone.commands.options import (
    JsonOption,
    LimitOption,
    StateDirOption,
    moment,
    print_json,
    print_table,
)

app = typer.Typer(help="Hosts: who reports.", no_args_is_help=True)


@app.command("list")
def list_hosts(*, limit: LimitOption = 200, as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """List hosts."""
    with Client(find_endpoint(state_dir)) as client:
        found = list(client.items("/v1/hosts", {}, limit))
    if as_json:
        print_json({"items": found, "next_cursor": None})
        return
    print_table(
        ["HOSTNAME", "STATE", "SEEN", "OS", "COLLECTOR", "AGENT", "SPOOL", "DROPPED", "ID"],
        (
            (
                host["hostname"],
                host["connection"],
                moment(host["last_seen_unix_ns"]),
                host["os_version"] or host["os"],
                host["collector"],
                host["agent_version"],
                host["spool_pending_events"],
                host["ring_dropped_total"],
                host["host_id"],
            )
            for host in found
        ),
        empty="no host has reported yet",
    )
