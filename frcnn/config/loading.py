"""YAML files and KEY=VALUE overrides to a frozen ``Config``, and back to a file."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from frcnn.config.options import insert_text, option_names
from frcnn.config.schema import Config
from frcnn.errors import UserError

# Far beyond any configuration; Python shows integers of up to 4,300 digits (14,284 bits).
MAX_YAML_VALUES, MAX_YAML_DEPTH, MAX_YAML_BITS = 100_000, 100, 10_000


def load_config(file: Path | None = None, overrides: Sequence[str] | None = None) -> Config:
    """YAML file (or the defaults) with KEY=VALUE overrides on top.

    Args:
        file: YAML file of nested sections, as under ``configs/``.
        overrides: ``section.option=value``; values are coerced as :func:`frcnn.config.options.coerce_text` says.

    Raises:
        UserError: names the file and option, the value, what is allowed and the nearest known option.
    """
    tree = read_yaml(file) if file else {}
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} is not of the form KEY=VALUE, for example training.batch_size=4")
        insert_text(Config, tree, name.strip(), text.strip())
    if not file:
        return Config.from_tree(tree, "command line")
    return Config.from_tree(tree, f"{file} with the overrides" if overrides else str(file))


def with_test_options(config: Config, texts: str | None) -> Config:
    """A model's configuration with options of the group ``test`` changed: ``"flip=true scales=[1,1.25]"``, or None.

    Raises:
        UserError: as for :func:`load_config`.
    """
    if not texts:
        return config
    tree = config.model_dump(mode="json")
    for text in texts.split():
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"test option {text!r} is not of the form KEY=VALUE, for example flip=true")
        insert_text(Config, tree, f"test.{name.removeprefix('test.')}", value)
    return Config.from_tree(tree, f"test options {texts!r}")


def save_config(config: Config, file: Path) -> None:
    """Write every option, defaults included, so that the file alone repeats the run."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120))


def changed_options(before: Mapping[str, Any], config: Config) -> list[str]:
    """Options whose value differs from the nested values ``before``, as ``"section.option (was 3, is 4)"``.

    An option that ``before`` does not have, written by an older version, had its default.
    """
    now, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    changed = []
    for name in option_names(Config):
        old, new = _value_at(before, name, _value_at(defaults, name)), _value_at(now, name)
        if old != new:
            changed.append(f"{name} (was {json.dumps(old)}, is {json.dumps(new)})")
    return changed


def read_yaml(file: Path, loader: type[yaml.SafeLoader] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, read with a loader that rejects duplicate keys; an empty file is an empty mapping.

    Raises:
        UserError: the file cannot be read, is not YAML, has a key twice in a mapping, or holds something else.
    """
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8-sig"), loader or UniqueKeyLoader)
    except OSError as error:
        raise UserError(
            f"config file {file} cannot be read ({error.strerror}); give the path of a YAML file such as "
            "configs/shapes_r18_fpn.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"config file {file} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); "
            "save it as UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(f"config file {file} is not valid YAML: {error}") from error
    except RecursionError:
        raise UserError(
            f"config file {file} is nested too deeply, or contains itself; expected sections with options below them"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"config file {file} contains a {'list' if isinstance(tree, list) else 'single value'}; "
            "expected sections such as 'training:' with options below them"
        )
    return tree


def parse_yaml(text: str, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader]) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML, or too large; says why.
        RecursionError: nested too deeply, or contains itself, which an anchor makes possible.
    """
    try:
        value = yaml.load(text, loader)
    except RecursionError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:  # of PyYAML's constructors
        raise ValueError(_yaml_problem(error)) from error
    _check_size(value)
    return value


def _check_size(root: Any) -> None:
    """Raise ValueError or RecursionError for a value that cannot be shown; aliases make it large in few bytes."""
    values, number = [(root, 0)], 0
    while values:
        value, depth = values.pop()
        number += 1
        if depth > MAX_YAML_DEPTH:
            raise RecursionError
        if number > MAX_YAML_VALUES:
            raise ValueError(f"it has more than {MAX_YAML_VALUES:,} values, aliases included")
        if isinstance(value, int) and value.bit_length() > MAX_YAML_BITS:
            raise ValueError("it contains an integer of thousands of digits")
        inner = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        if isinstance(inner, (list, tuple, set)):
            values.extend((part, depth + 1) for part in inner)


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _value_at(tree: Mapping[str, Any], name: str, default: Any = None) -> Any:
    value: Any = tree
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value
