"""``microedr-agent``: the command line.

argparse rather than typer: an agent installs little. Commands that last for as long as the host are
parsed here, in a child, and run by ``lasting``; the others import what they need when they run.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from microedr_agent import __version__
from microedr_agent.config_files import require_files
from microedr_agent.config_sources import LoadedConfig, load_config, settings
from microedr_agent.errors import AgentError
from microedr_agent.lasting import EXIT_UNUSABLE, LASTING, run_lasting

_Command = Callable[[LoadedConfig, argparse.Namespace], int]


def run(arguments: Sequence[str]) -> int:
    """Carry out one command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == "version":
        sys.stdout.write(f"microedr-agent {__version__}\n")
        return 0
    if parsed.command in LASTING:
        return run_lasting(arguments)
    commands: dict[str, _Command] = {"config": _config, "spool": _spool}
    try:
        return commands[parsed.command](_load(parsed), parsed)
    except AgentError as error:
        sys.stderr.write(f"microedr-agent: {error}\n")
        return EXIT_UNUSABLE
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has seen enough
        return 0


def load(arguments: Sequence[str]) -> LoadedConfig:
    """The settings that a lasting command leads to; ends the process, as argparse does, when the line is wrong.

    Raises:
        ConfigError: A setting is, or what it names on disk.
    """
    parsed = _parser().parse_args(arguments)
    loaded = _load(parsed)
    require_files(parsed.command, loaded)
    return loaded


def _load(parsed: argparse.Namespace) -> LoadedConfig:
    given = {setting.name: text for setting in settings() if (text := getattr(parsed, setting.name, None)) is not None}
    return load_config(file=parsed.config, flags=given)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", type=Path, help="read this file and no other")
    group = common.add_argument_group(
        "settings", "each stands before the environment (MICROEDR_AGENT_…), which stands before the files"
    )
    for setting in settings():
        group.add_argument(setting.flag, dest=setting.name, metavar="…", help=setting.rule.allowed)
    parser = argparse.ArgumentParser(prog="microedr-agent", description="Sees, sends and acts on one host.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "sensor, uploader and responder, looked after by this process"),
        ("sensor", "the sensor alone"),
        ("uploader", "the uploader alone"),
        ("responder", "the responder alone"),
        ("config", "print the settings in force and where each came from"),
    ):
        commands.add_parser(name, parents=[common], help=text, description=text)
    commands.add_parser("version", help="print the version")
    spool = commands.add_parser("spool", help="look into the spool, never change it")
    what = spool.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, text in (
        ("ls", "segments and what is still to be sent"),
        ("verify", "check every frame and the chain between them; status 1 when something is damaged"),
        ("dump", "print events as JSON, one a line"),
    ):
        what.add_parser(name, parents=[common], help=text, description=text)
    return parser


def _config(loaded: LoadedConfig, _parsed: argparse.Namespace) -> int:
    rows = [(name, _shown(value), origin) for name, value, origin in loaded.rows()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        sys.stdout.write(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}\n")
    for remark in _remarks(loaded):
        sys.stdout.write(f"note: {remark}\n")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "(none)"
    if isinstance(value, bytes):
        # Public keys: their ids are what people compare, and no more of anything binary is shown.
        from microedr.signing import key_id  # noqa: PLC0415 - see the module

        return f"key {key_id(value)}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _remarks(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    if loaded.origins["upload.gzip"] != "default":
        yield "upload.gzip changes nothing: frames are always sealed with zstd"
    if config.actions.enabled and not config.actions.armed:
        missing = "trusted_keys" if not config.actions.trusted_keys else "allow"
        yield f"actions.enabled is true, but actions.{missing} is empty: every order is refused"
    if loaded.origins["collectors.windows.etw"] != "default" and sys.platform != "win32":
        yield "collectors.windows.etw counts on Windows only"


def _spool(loaded: LoadedConfig, parsed: argparse.Namespace) -> int:
    from microedr_agent.spool import inspect  # noqa: PLC0415 - see the module

    commands = {"ls": inspect.list_spool, "verify": inspect.verify_spool, "dump": inspect.dump_spool}
    return commands[parsed.what](loaded.config.spool.dir, sys.stdout)
