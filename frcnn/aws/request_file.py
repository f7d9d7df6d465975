"""YAML files of jobs, endpoints and transforms, in which names keep the characters that they are written with.

Plain YAML would read the image tag ``1.10`` as the number 1.1, and the account ``012345670123`` as an octal number.
Here a value is text until the type of its option is known.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml

from frcnn.config import Options, UniqueKeyLoader, parse_yaml, read_yaml
from frcnn.config.options import coerce_text, field_type, is_section, suggest_option
from frcnn.errors import UserError

T = TypeVar("T", bound=Options)
_RESOLVED = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")  # of plain scalars; all others stay text


class _Plain(str):
    """Text of a YAML value without quotes, which may mean a number."""


class _TextLoader(UniqueKeyLoader):
    """Leaves every plain scalar text, except null."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED]
    for first, resolvers in UniqueKeyLoader.yaml_implicit_resolvers.items()
}


def _construct_text(loader: _TextLoader, node: yaml.ScalarNode) -> str:
    return _Plain(node.value) if node.style is None else str(node.value)


_TextLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)


def load_request(
    kind: type[T],
    file: Path,
    overrides: Sequence[str] = (),
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> T:
    """Read the options of ``kind`` from a YAML file, with FIELD=VALUE overrides on top.

    Args:
        kind: class of the request.
        file: YAML file.
        overrides: FIELD=VALUE texts; ``section.field`` for fields of sections and mappings.
        edit: changes the nested values before they are validated.

    Paths are relative to the working directory or, if they do not exist there, to the file's folder.

    Raises:
        UserError: names the file, the option, its value and what is expected.
    """
    tree = read_yaml(file, _TextLoader)
    for override in overrides:
        _override(kind, tree, override)
    if edit:
        edit(tree)
    typed = {name: _coerce(value, field_type(kind, name), file.parent) for name, value in tree.items()}
    return kind.from_tree(typed, f"{file} with the overrides" if overrides else str(file))


def _override(kind: type[Options], tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{override!r} is not of the form FIELD=VALUE, for example instance_count=2")
    section, dot, option = name.partition(".")
    annotation = field_type(kind, section)
    if annotation is None:
        raise UserError(f"unknown option {name!r}{suggest_option(kind, name)}")
    value = _parse(text, _TextLoader)
    if not dot:
        tree[section] = value
        return
    inside = tree.get(section)
    if inside is not None and not isinstance(inside, dict):
        raise UserError(f"option {name!r} cannot be set: {section!r} is {inside!r}; expected a mapping")
    if _value_type(annotation) is not None:  # hyperparameters.training.epochs: a mapping whose keys contain dots
        tree[section] = {**(inside or {}), option: value}
        return
    for part in option.split(".")[::-1]:
        value = {part: value}
    tree[section] = _merge(inside or {}, value)


def _parse(text: str, loader: type[yaml.SafeLoader]) -> Any:
    """The value of a YAML text; raises UserError."""
    try:
        return parse_yaml(text, loader)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"value {text!r} is not valid YAML: {reason}") from error


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    both = {
        key: _merge(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}


def _coerce(value: Any, annotation: Any, folder: Path) -> Any:
    """The value with every plain text converted to the type that the option has."""
    members = _members(annotation)
    if isinstance(value, dict):
        section = next((member for member in members if is_section(member)), None)
        item = _value_type(annotation)
        return {
            str(key): _coerce(inner, field_type(section, key) if section and item is None else item, folder)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        item = next((get_args(member)[0] for member in members if get_origin(member) is tuple), None)
        return [_coerce(inner, item if item is not None else annotation, folder) for inner in value]
    if not isinstance(value, _Plain):
        return value
    if Any in members:
        return _parse(value, yaml.SafeLoader)
    if Path in members:
        return folder / value if not Path(value).exists() and (folder / value).exists() else str(value)
    return str(value) if str in members or not members else coerce_text(str(value), annotation)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, without annotations."""
    if annotation is None:
        return ()
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for member in get_args(annotation) for part in _members(member))
    return (annotation,)


def _value_type(annotation: Any) -> Any:
    """Type of the values of a mapping option; None for other options."""
    return next((get_args(member)[1] for member in _members(annotation) if get_origin(member) is dict), None)
