"""``microedr actions``: list containment orders, request one."""

from typing import Annotated

import typer

from microedr_standalone.client import Client, find_endpoint
from microedr_standalone.commands.options import (
    JsonOption,
    LimitOption,
    StateDirOption,
    console,
    moment,
    plain,
    print_json,
    print_table,
)
from microedr_standalone.errors import UsageError

app = typer.Typer(help="Actions: what was done about it.", no_args_is_help=True)
request_app = typer.Typer(help="Ask for a containment order.", no_args_is_help=True)
app.add_typer(request_app, name="request")


@app.command("list")
def list_actions(*, limit: LimitOption = 50, as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """List actions, newest first."""
    with Client(find_endpoint(state_dir)) as client:
        found = list(client.items("/v1/actions", {}, limit))
    if as_json:
        print_json({"items": found, "next_cursor": None})
        return
    print_table(
        ["REQUESTED", "TYPE", "STATE", "REASON", "HOST", "PID", "ALERT", "ID"],
        (
            (
                moment(action["created_unix_ns"]),
                action["type"],
                action["state"],
                action.get("reason"),
                action["host_id"],
                action["target"]["pid"],
                action.get("alert_id"),
                action["action_id"],
            )
            for action in found
        ),
        empty="no action was asked for",
    )


@request_app.command("kill_process")
def kill_process(  # noqa: PLR0913 - one parameter per option
    *,
    alert: Annotated[str, typer.Option("--alert", help="Kill the process of this alert.", show_default=False)] = "",
    host: Annotated[str, typer.Option("--host", help="Host id, when no alert is named.", show_default=False)] = "",
    pid: Annotated[int, typer.Option("--pid", min=0, help="Process id on that host.")] = 0,
    process_uid: Annotated[str, typer.Option("--process-uid", help="Its process_uid, 32 hex digits.")] = "",
    start_boot_ns: Annotated[int, typer.Option("--start-boot-ns", min=0, help="Its start since boot, ns.")] = 0,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """Kill one process on one host. Name an alert, or the host and the process exactly."""
    if not alert and not (host and pid and process_uid and start_boot_ns):
        raise UsageError("name --alert, or all of --host, --pid, --process-uid and --start-boot-ns")
    body: dict[str, object] = {"type": "kill_process"}
    if alert:
        body["alert_id"] = alert
    else:
        body |= {"host_id": host, "pid": pid, "process_uid": process_uid, "start_boot_ns": start_boot_ns}
    with Client(find_endpoint(state_dir)) as client:
        action = client.post("/v1/actions", body)
    if as_json:
        print_json(action)
    else:
        console().print(
            plain(f"{action['action_id']} is {action['state']}; 'microedr actions list' shows what follows")
        )
