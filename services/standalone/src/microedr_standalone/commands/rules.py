"""``microedr rules``: check rule files and try rules on their evidence. Needs no running system."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microedr_rules.check import CheckReport, EvidenceReport, run_tests
from microedr_rules.check import check as check_rules
from microedr_standalone.commands.options import JsonOption, console, plain, print_json

if TYPE_CHECKING:
    from microedr_rules.check import CheckReport, EvidenceReport

app = typer.Typer(help="Rules: what is looked for.", no_args_is_help=True)

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="Rule files and directories; without any, those shipped with microedr.", exists=True),
]


@app.command("check")
def check(paths: Paths = None, *, as_json: JsonOption = False) -> None:
    """Say what is wrong with rules, as file:line:column, and what each can see."""
    _show(check_rules(paths or ()), as_json=as_json)


@app.command("test")
def try_evidence(
    paths: Paths = None,
    *,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Directory with a folder per rule.", exists=True)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try every rule on the events that must fire it and on the near misses that must not."""
    _show(run_tests(paths or (), evidence), as_json=as_json)


def _show(report: "CheckReport | EvidenceReport", *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
    else:
        for line in report.lines():
            console().print(plain(line), soft_wrap=True)
    raise typer.Exit(report.exit_code)
