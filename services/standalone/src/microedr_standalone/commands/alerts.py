"""``microedr alerts``: list, show, acknowledge and close."""

from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from microedr_standalone.client import Client, Json, find_endpoint
from microedr_standalone.commands.options import (
    JsonOption,
    LimitOption,
    StateDirOption,
    console,
    moment,
    plain,
    print_json,
    print_table,
    severity,
)

app = typer.Typer(help="Alerts: what was found.", no_args_is_help=True)

AlertId = Annotated[str, typer.Argument(help="The alert's id.", show_default=False)]
Note = Annotated[str, typer.Option("--note", help="Why, for the record.")]


@app.command("list")
def list_alerts(  # noqa: PLR0913 - one parameter per option
    *,
    severity_name: Annotated[str, typer.Option("--severity", help="Only this severity.")] = "",
    state: Annotated[str, typer.Option("--state", help="Only open, acked or closed ones.")] = "",
    host: Annotated[str, typer.Option("--host", help="Only this host id.")] = "",
    rule: Annotated[str, typer.Option("--rule", help="Only this rule id.")] = "",
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    state_dir: StateDirOption = None,
) -> None:
    """List alerts, newest first."""
    wanted = {"severity": severity_name, "state": state, "host_id": host, "rule_id": rule}
    params: dict[str, str | int] = {name: value for name, value in wanted.items() if value}
    with Client(find_endpoint(state_dir)) as client:
        found = list(client.items("/v1/alerts", params, limit))
    if as_json:
        print_json({"items": found, "next_cursor": None})
        return
    print_table(
        ["RAISED", "SEVERITY", "STATE", "HOST", "TITLE", "N", "ACTION", "ID"],
        (
            (
                moment(alert["raised_unix_ns"]),
                severity(alert["severity"]),
                alert["state"],
                alert.get("hostname") or alert["host_id"],
                alert["title"],
                alert["match_count"],
                ", ".join(f"{a['type']} {a['state']}" for a in alert.get("actions", [])),
                alert["alert_id"],
            )
            for alert in found
        ),
        empty="no alerts",
    )


@app.command("show")
def show(alert_id: AlertId, *, as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Show one alert: its story, process tree, evidence and what was done."""
    with Client(find_endpoint(state_dir)) as client:
        alert = client.get(f"/v1/alerts/{alert_id}")
    if as_json:
        print_json(alert)
        return
    out = console()
    out.print(Text(alert["title"], style="bold"), severity(alert["severity"]), plain(alert["state"]))
    out.print(plain(alert["summary"]))
    out.print()
    print_table(
        ["", ""],
        (
            ("host", f"{alert.get('hostname', '')} ({alert['host_id']})"),
            ("rule", f"{alert['rule_id']}, confidence {alert['confidence']:.2f}"),
            ("event", moment(alert["event_unix_ns"])),
            ("raised", moment(alert["raised_unix_ns"])),
            ("matches", f"{alert['match_count']}, of which folded in {alert['folded_count']}"),
            *((name, value) for name, value in alert["entities"].items() if value),
        ),
        empty="",
    )
    out.print()
    out.print(process_tree(alert))
    print_actions(alert.get("actions", []))


def process_tree(alert: Json) -> Tree:
    """The ancestry, oldest first, the matching process last."""
    root = Tree(Text("process tree", style="bold"))
    branch = root
    for node in reversed(alert["process_tree"]):
        ended = " (ended)" if node.get("exit_unix_ns") else ""
        branch = branch.add(plain(f"{node['pid']} {node.get('user', '')} {node['cmdline'] or node['exe']}{ended}"))
    return root


def print_actions(actions: list[Json]) -> None:
    """Each action with the steps it went through."""
    for action in actions:
        console().print(Text(f"\naction {action['type']} {action['action_id']}: {action['state']}", style="bold"))
        print_table(
            ["AT", "STATE", "BY", "REASON"],
            ((moment(s["at_unix_ns"]), s["state"], s.get("actor"), s.get("reason")) for s in action["steps"]),
            empty="",
        )


@app.command("ack")
def ack(alert_id: AlertId, *, note: Note = "", as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Take an alert: somebody looks into it."""
    _change(alert_id, "ack", note, as_json=as_json, state_dir=state_dir)


@app.command("close")
def close(alert_id: AlertId, *, note: Note = "", as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Close an alert."""
    _change(alert_id, "close", note, as_json=as_json, state_dir=state_dir)


def _change(alert_id: str, verb: str, note: str, *, as_json: bool, state_dir: StateDirOption) -> None:
    with Client(find_endpoint(state_dir)) as client:
        alert = client.post(f"/v1/alerts/{alert_id}:{verb}", {"note": note} if note else {})
    if as_json:
        print_json(alert)
    else:
        console().print(plain(f"{alert['alert_id']} is {alert['state']}"))
