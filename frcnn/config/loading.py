"""From a YAML file and KEY=VALUE texts to a frozen ``Config``, and back to a file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pydantic
import yaml

from frcnn.config.schema import Config, Section, annotation_of, is_section
from frcnn.errors import UserError


def load_config(file: Path | None = None, overrides: list[str] | None = None) -> Config:
    """YAML file (or the defaults) with KEY=VALUE overrides on top.

    Args:
        file: YAML file of nested sections, as under ``configs/``.
        overrides: ``section.option=value``; values are texts that the schema coerces (``true``, ``3``, ``null``, JSON).

    Raises:
        UserError: names the file and key, the value, what is allowed and the nearest known key.
    """
    tree = _read_yaml(file) if file else {}
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} is not of the form KEY=VALUE, for example training.batch_size=4")
        _insert(tree, key.strip(), text.strip())
    if not file:
        return _validate(tree, "command line")
    return _validate(tree, f"{file} with the overrides" if overrides else str(file))


def config_from_texts(texts: Mapping[str, str], base: Mapping[str, Any] | None = None) -> Config:
    """Config from flat ``{"section.option": "text"}`` pairs, as SageMaker hands over hyperparameters, over a nested ``base``."""
    tree = dict(base or {})
    for key, text in texts.items():
        _insert(tree, key, text)
    return _validate(tree, "hyperparameters")


def save_config(config: Config, file: Path) -> None:
    """Write every option, defaults included, so that the file alone repeats the run."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120))


def changed_options(before: Mapping[str, Any], config: Config) -> list[str]:
    """Options that ``config`` has otherwise than the nested values ``before``, as ``"section.option (was 3, is 4)"``."""
    now = config.model_dump(mode="json")
    changed = []
    for name in option_names():
        old, new = _at(before, name), _at(now, name)
        if old != new:
            changed.append(f"{name} (was {json.dumps(old)}, is {json.dumps(new)})")
    return changed


def option_names(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all options, in the order of the schema."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += option_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which plain YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key!r} stands there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError as error:
        example = "give the path of a YAML file such as configs/shapes_r18_fpn.yaml"
        raise UserError(f"config file {file} cannot be read ({error.strerror}); {example}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {file} is not valid YAML: {_yaml_problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"config file {file} holds a {type(tree).__name__}; expected sections such as 'training:' with options below them"
        )
    return tree


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _insert(tree: dict[str, Any], key: str, text: str) -> None:
    """Put a text value at a dotted key, coerced as its field asks."""
    annotation = _annotation_at(key)
    if annotation is None:
        raise UserError(f"unknown option {key!r}{_nearest(key)}")
    *sections, option = key.split(".")
    for section in sections:
        child = tree.get(section)
        if child is not None and not isinstance(child, dict):
            raise UserError(
                f"option {key!r} cannot be set: {section!r} is {child!r}; expected a section with options below it"
            )
        tree[section] = dict(child or {})
        tree = tree[section]
    tree[option] = _decode(text, annotation)


def _decode(text: Any, annotation: Any) -> Any:
    """``"True"``, ``"3"``, ``"null"``, ``"[1, 2]"`` and ``'"name"'`` as the values they spell; other texts stay texts."""
    if not isinstance(text, str) or text in get_args(annotation):
        return text
    if text.lower() in ("null", "none"):
        return None
    if _wants_text(annotation) and not text.startswith('"'):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _annotation_at(key: str) -> Any:
    """Annotation of the option or section at a dotted key, or None where there is none."""
    annotation: Any = Config
    for name in key.split("."):
        if not is_section(annotation):
            return None
        annotation = annotation_of(annotation, name)
    return annotation


def _wants_text(annotation: Any) -> bool:
    members = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return any(member in (str, Path) or isinstance(member, str) for member in members)


def _at(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _nearest(key: str) -> str:
    """The known option that is most like a mistyped one, both as a whole and in its last part."""

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        return whole + difflib.SequenceMatcher(None, key.rpartition(".")[2], name.rpartition(".")[2]).ratio()

    options = option_names()
    sections = {option.rpartition(".")[0] for option in options} - {""}
    best = max([*options, *sorted(sections)], key=likeness)
    return f"; did you mean {best!r}?" if likeness(best) > 1.2 else "; see docs/configuration.md for all options"


def _validate(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as invalid:
        problems = [_describe(error) for error in invalid.errors(include_url=False)]
        raise UserError(f"{source}: " + "; ".join(problems)) from None


# What pydantic says, and what that is in the words of a YAML file.
_IN_OUR_WORDS = (
    (r"^Input should be", "expected"),
    (r"a valid tuple", "a list such as [1, 2]"),
    (r"a valid dictionary or instance of \w+", "a section with options below it"),
    (r", (unable|got) .*", ""),
    (r"^expected (?=greater|less)", "expected a number "),
    (r"^Tuple should have (.*?) items? after validation, not \d+", r"expected \1 values"),
    (r"^Field required", "expected one more value"),
    (r"^Keys should be strings", "expected the name of an option"),
)


def _describe(error: Any) -> str:
    """One pydantic error as: option, value, what is allowed."""
    key = ""
    for part in error["loc"]:
        key += f"[{part}]" if isinstance(part, int) and key else f".{part}" if key else str(part)
    if error["type"] == "extra_forbidden":
        return f"unknown option {key!r}{_nearest(key)}"
    if error["type"] == "value_error":
        return f"section {key!r}: {error['ctx']['error']}"
    message = error["msg"]
    for theirs, ours in _IN_OUR_WORDS:
        message = re.sub(theirs, ours, message)
    return f"option {key!r} is {_shown(error['input'])}; {message[:1].lower() + message[1:]}"


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
