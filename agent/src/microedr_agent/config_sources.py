"""Where settings come from: flags > environment > user file > system file > defaults.

``--config FILE`` stands in for both files. Anything unknown is an error, with file and line, for a
misspelt setting that is silently ignored is worse than an agent that does not start.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microedr_agent.config import AgentConfig
from microedr_agent.config_rules import Rule
from microedr_agent.errors import ConfigError

SYSTEM_FILE = Path("/etc/microedr/agent.yaml")
ENVIRONMENT_PREFIX = "MICROEDR_AGENT_"
FILE_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
_SERVICE_LINK = re.compile(r"MICROEDR_AGENT_(SERVICE_(HOST|PORT)|PORT)(_\w+)?")
"""Kubernetes puts these into every container beside a Service called microedr-agent."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting: its dotted name in agent.yaml and how it is read."""

    name: str
    rule: Rule
    default: object

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + self.name.lower().replace(".", "-").replace("_", "-")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The settings and, for each dotted name, where its value came from."""

    config: AgentConfig
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """``(name, value, origin)`` of each setting, in the order of declaration."""
        for name, path in _paths(AgentConfig):
            value: object = self.config
            for part in path:
                value = getattr(value, part)
            yield name, value, self.origins[name]


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody gave, and who."""

    value: object
    origin: str


def settings() -> tuple[Setting, ...]:
    """Every setting there is."""
    return tuple(_declared(AgentConfig, ""))


def load_config(
    *, file: Path | None = None, flags: Mapping[str, str] | None = None, environment: Mapping[str, str] = os.environ
) -> LoadedConfig:
    """Read, merge and check all sources.

    Args:
        file: Replaces the user's and the system's file; must exist.
        flags: Dotted name to text, as typed.
        environment: Variables beginning with ``MICROEDR_AGENT_``.

    Raises:
        ConfigError: One line that names the source, the field and what is allowed.
    """
    known = {setting.name: setting for setting in settings()}
    given: dict[str, Given] = {}
    named = file or (Path(environment[FILE_VARIABLE]) if FILE_VARIABLE in environment else None)
    for candidate in (named,) if named is not None else (SYSTEM_FILE, _user_file(environment)):
        if named is not None or candidate.exists():
            from microedr_agent.config_yaml import read_file  # noqa: PLC0415 - PyYAML takes 4 MB

            given.update(read_file(candidate, known))
    given.update(_from_environment(environment, known))
    for name, text in (flags or {}).items():
        given[name] = _read_text(known[name], text, known[name].flag)
    for setting in known.values():
        if setting.name not in given and setting.default is dataclasses.MISSING:
            raise ConfigError(_missing(setting, named))
    origins = {name: given[name].origin if name in given else "default" for name in known}
    values = {name: entry.value for name, entry in given.items()}
    return LoadedConfig(_build(AgentConfig, values, ""), origins)


def _user_file(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", "/"), ".config")  # noqa: PTH118 - joins text from the environment
    return Path(base) / "microedr" / "agent.yaml"


def _missing(setting: Setting, file: Path | None) -> str:
    where = str(file) if file else f"{SYSTEM_FILE}, {setting.variable} or {setting.flag}"
    return f"{where}: {setting.name} is missing; allowed is {setting.rule.allowed}"


def _section_type(hint: object) -> type | None:
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], str, type | None]]:
    hints = typing.get_type_hints(kind)
    for declared in dataclasses.fields(kind):
        yield declared, declared.metadata.get("key") or declared.name, _section_type(hints[declared.name])


def _declared(kind: type, prefix: str) -> Iterator[Setting]:
    for declared, key, inner in _fields(kind):
        if inner is not None:
            yield from _declared(inner, f"{prefix}{key}.")
        else:
            yield Setting(prefix + key, declared.metadata["rule"], declared.default)


def _paths(kind: type, prefix: str = "", parents: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    for declared, key, inner in _fields(kind):
        path = (*parents, declared.name)
        if inner is not None:
            yield from _paths(inner, f"{prefix}{key}.", path)
        else:
            yield prefix + key, path


def _build(kind: type, values: Mapping[str, object], prefix: str) -> Any:
    chosen: dict[str, object] = {}
    for declared, key, inner in _fields(kind):
        if inner is not None:
            chosen[declared.name] = _build(inner, values, f"{prefix}{key}.")
        elif prefix + key in values:
            chosen[declared.name] = values[prefix + key]
    return kind(**chosen)


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Setting]) -> Iterator[tuple[str, Given]]:
    variables = {setting.variable: setting for setting in known.values()}
    for variable, text in environment.items():
        if variable in variables:
            setting = variables[variable]
            yield setting.name, _read_text(setting, text, variable)
        elif (
            variable.startswith(ENVIRONMENT_PREFIX)
            and variable != FILE_VARIABLE
            and not _SERVICE_LINK.fullmatch(variable)
        ):
            raise ConfigError(f"{variable}: no such setting; `microedr-agent config` lists them")


def _read_text(setting: Setting, text: str, origin: str) -> Given:
    try:
        return Given(setting.rule.read(setting.rule.from_text(text)), origin)
    except ValueError as error:
        reason = str(error)
        if not reason.startswith("allowed is"):
            reason = f"allowed is {setting.rule.allowed}"
        raise ConfigError(f"{origin}: {setting.name}: {reason}") from None
