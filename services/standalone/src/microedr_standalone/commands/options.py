"""Options that many commands share, and how results are shown."""

import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

StateDirOption = Annotated[
    Path | None, typer.Option("--state-dir", help="State directory of the running system.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")]

SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "informational": "dim"}


def print_json(content: Any) -> None:
    """Print ``content`` as JSON; in a terminal indented."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table. Cells are shown as they are: control characters of an attacker cannot reach the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    console().print(table if table.row_count else Text(empty, style="dim"))


def plain(value: Any) -> Text:
    """``value`` as text without control characters and without markup."""
    text = "" if value is None else str(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def severity(name: str) -> Text:
    """A severity in its colour."""
    return Text(name, style=SEVERITY_STYLES.get(name, ""))


def moment(unix_ns: int | None) -> str:
    """A time for a person: local, to the second. Empty when there is none."""
    if not unix_ns:
        return ""
    return dt.datetime.fromtimestamp(int(unix_ns) / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def console() -> Console:
    """Standard output; as wide as need be when it is no terminal, so that nothing is cut."""
    return Console() if sys.stdout.isatty() else Console(width=400, soft_wrap=True)
