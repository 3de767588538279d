"""What agent.yaml says, with file and line of whatever it says wrong.

A module of its own because PyYAML takes 4 MB, which nobody needs once the settings are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from microedr_agent.config import read_trusted_file
from microedr_agent.config_sources import Given, Setting
from microedr_agent.errors import ConfigError


def read_file(path: Path, known: Mapping[str, Setting]) -> dict[str, Given]:
    """The settings in the file at ``path``.

    Raises:
        ConfigError: It cannot be read, is not YAML, or says something that is not ``known``.
    """
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


def _from_node(node: yaml.Node, path: Path, known: Mapping[str, Setting], prefix: str) -> Iterator[tuple[str, Given]]:
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


def _read_node(setting: Setting, node: yaml.Node, origin: str) -> Given:
    constructor = yaml.SafeLoader("")
    try:
        value: object = constructor.construct_object(node, deep=True)
        return Given(setting.rule.read(value), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {setting.name}: allowed is {setting.rule.allowed}") from error
    except ValueError as error:
        raise ConfigError(f"{origin}: {setting.name}: {error}") from None
    finally:
        constructor.dispose()
