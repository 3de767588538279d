"""What a person types: one module per noun, put together here."""

import typer

from microedr_standalone.commands import actions, alerts, demo, hosts, rules, up

app = typer.Typer(
    name="microedr",
    help="Find and stop attacks on servers and containers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.add_typer(alerts.app, name="alerts")
app.add_typer(hosts.app, name="hosts")
app.add_typer(actions.app, name="actions")
app.add_typer(rules.app, name="rules")
