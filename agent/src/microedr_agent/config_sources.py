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

import yaml

from microedr_agent.config import AgentConfig, read_trusted_file
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
class _Given:
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
    given: dict[str, _Given] = {}
    named = file or (Path(environment[FILE_VARIABLE]) if FILE_VARIABLE in environment else None)
    if named is not None:
        given.update(_from_file(named, known))
    else:
        for candidate in (SYSTEM_FILE, _user_file(environment)):
            if candidate.exists():
                given.update(_from_file(candidate, known))
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


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Setting]) -> Iterator[tuple[str, _Given]]:
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


def _read_text(setting: Setting, text: str, origin: str) -> _Given:
    try:
        return _Given(setting.rule.read(setting.rule.from_text(text)), origin)
    except ValueError as error:
        reason = str(error)
        if not reason.startswith("allowed is"):
            reason = f"allowed is {setting.rule.allowed}"
        raise ConfigError(f"{origin}: {setting.name}: {reason}") from None


def _from_file(path: Path, known: Mapping[str, Setting]) -> dict[str, _Given]:
    try:
        text = read_trusted_file(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    return dict(_from_node(root, path, known, "")) if root is not None else {}


def _from_node(node: yaml.Node, path: Path, known: Mapping[str, Setting], prefix: str) -> Iterator[tuple[str, _Given]]:
    if not isinstance(node, yaml.MappingNode):
        where = prefix.removesuffix(".") or "the file"
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: {where} must be a mapping of settings")
    seen: set[str] = set()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        name = prefix + str(key_node.value)
        if name in seen:
            raise ConfigError(f"{path}:{line}: {name} is given twice")
        seen.add(name)
        if name in known:
            yield name, _read_node(known[name], value_node, f"{path}:{line}")
        elif any(other.startswith(name + ".") for other in known):
            if not _is_null(value_node):  # `actions:` with nothing below it says nothing
                yield from _from_node(value_node, path, known, name + ".")
        else:
            siblings = sorted({other[len(prefix) :].split(".")[0] for other in known if other.startswith(prefix)})
            raise ConfigError(f"{path}:{line}: {name}: no such setting; allowed are {', '.join(siblings)}")


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _read_node(setting: Setting, node: yaml.Node, origin: str) -> _Given:
    constructor = yaml.SafeLoader("")
    try:
        value: object = constructor.construct_object(node, deep=True)
        return _Given(setting.rule.read(value), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {setting.name}: allowed is {setting.rule.allowed}") from error
    except ValueError as error:
        raise ConfigError(f"{origin}: {setting.name}: {error}") from None
    finally:
        constructor.dispose()
