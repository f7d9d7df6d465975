"""The base of every set of options: training configuration, launch requests and serving.

One place coerces texts to the type of their option, and one place turns a validation error into a sentence.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from frcnn.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]

# pydantic's message (a regular expression) -> the same in terms of a YAML file.
_MESSAGES = (
    (r"^Input should be", "expected"),
    (r"a valid tuple", "a list such as [1, 2]"),
    (r"a valid dictionary or instance of \w+", "a section with options below it"),
    (r"a valid dictionary", "a mapping such as {a: 1}"),
    (r"a valid string", "a text"),
    (r"^Input is not a valid path.*", "expected a path"),
    (r", (unable|got) .*", ""),
    (r"^expected (?=greater|less)", "expected a number "),
    (r"^Tuple should have (.*?) items? after validation, not \d+", r"expected \1 values"),
    (r"^Field required", "expected one more value"),
    (r"^Keys should be strings", "expected the name of an option"),
    (r"^String should match pattern '\^s3://.*", "expected an S3 URI such as s3://bucket/folder"),
    (r"^String should match pattern '\^arn:.*iam.*", "expected an ARN such as arn:aws:iam::123456789012:role/NAME"),
    (r"^Dictionary should have at least 1 item.*", "expected at least one entry"),
)


class Options(BaseModel):
    """Immutable, typed options; sections are fields whose type is another ``Options``.

    Raises:
        UserError: on construction; names the option, its value, what is allowed and the nearest known option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise UserError(describe_errors(type(self), type(self).__name__, error)) from None

    # Without this mark pydantic calls __init__ for nested sections too, whose messages then lack the section's name.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _default_empty_sections(cls, values: Any) -> Any:
        """A YAML section whose options are all commented out is null, and means the defaults."""
        if not isinstance(values, dict):
            return values
        return {
            name: value for name, value in values.items() if value is not None or not is_section(field_type(cls, name))
        }

    @field_validator("*", mode="after")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        """``~/data`` is a folder in the user's home, in YAML files and KEY=VALUE as on a shell's command line."""
        return Path(os.path.expanduser(value)) if isinstance(value, Path) else value

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], source: str) -> Self:
        """Validate nested values.

        Args:
            source: file or command that they come from, which starts the error message.

        Raises:
            UserError: as on construction.
        """
        try:
            return cls.model_validate(dict(tree))
        except pydantic.ValidationError as error:
            raise UserError(describe_errors(cls, source, error)) from None

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], source: str, base: Mapping[str, Any] | None = None) -> Self:
        """Validate flat ``{"section.option": "text"}`` pairs over the nested values ``base``; see :func:`insert_text`.

        Raises:
            UserError: as on construction.
        """
        tree = dict(base or {})
        for name, text in texts.items():
            insert_text(cls, tree, name, text)
        return cls.from_tree(tree, source)


def is_section(annotation: Any) -> bool:
    """Whether a field of this type holds further options."""
    return isinstance(annotation, type) and issubclass(annotation, Options)


def field_type(options: type[Options], name: Any) -> Any:
    """Type annotation of a field, or None if there is no such field."""
    return options.model_fields[name].annotation if name in options.model_fields else None


def option_names(options: type[Options], prefix: str = "") -> list[str]:
    """Dotted names of all options, in the order of the schema."""
    names: list[str] = []
    for name, field in options.model_fields.items():
        if is_section(field.annotation):
            names += option_names(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            names.append(prefix + name)
    return names


def insert_text(options: type[Options], tree: dict[str, Any], name: str, text: str) -> None:
    """Set the option of a dotted name in nested values to a text, coerced to the type of the option.

    ``"True"``, ``"3"``, ``"null"``, ``"[1, 2]"`` and ``'"name"'`` become the values they spell, unless the option is a
    string or path.

    Raises:
        UserError: there is no such option, or one of its sections is set to something else.
    """
    insert_value(options, tree, name, coerce_text(text, _type_at(options, name)))


def insert_value(options: type[Options], tree: dict[str, Any], name: str, value: Any) -> None:
    """Set the option of a dotted name in nested values.

    Raises:
        UserError: as for :func:`insert_text`.
    """
    if _type_at(options, name) is None:
        raise UserError(f"unknown option {name!r}{suggest_option(options, name)}")
    *sections, option = name.split(".")
    for section in sections:
        child = tree.get(section)
        if child is not None and not isinstance(child, dict):
            raise UserError(
                f"option {name!r} cannot be set: {section!r} is {child!r}; expected a section with options below it"
            )
        tree[section] = dict(child or {})
        tree = tree[section]
    tree[option] = value


def coerce_text(text: Any, annotation: Any) -> Any:
    """The value that a text spells for an option of this type; anything else is returned unchanged."""
    if not isinstance(text, str) or text in get_args(annotation):
        return text
    if text.lower() in ("null", "none"):
        return None
    if text.lower() in ("true", "false") and any(member is True for member in get_args(annotation)):
        return text.lower() == "true"  # an option such as Literal["auto", True, False]
    if _accepts_text(annotation) and not text.startswith('"'):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also integers of more digits than Python converts
        return text


def suggest_option(options: type[Options], name: str) -> str:
    """``"; did you mean ...?"`` with the known option that is most similar to a mistyped one."""

    def similarity(known: str) -> float:
        whole = difflib.SequenceMatcher(None, name, known).ratio()
        return whole + difflib.SequenceMatcher(None, name.rpartition(".")[2], known.rpartition(".")[2]).ratio()

    names = option_names(options)
    sections = {known.rpartition(".")[0] for known in names} - {""}
    best = max([*names, *sorted(sections)], key=similarity)
    if similarity(best) > 1.2:
        return f"; did you mean {best!r}?"
    return "; see docs/configuration.md for all options" if sections else f"; known options are {', '.join(names)}"


def describe_errors(options: type[Options], source: str, error: pydantic.ValidationError) -> str:
    """All errors of a validation in one line: source, then option, value and what is allowed."""
    entries = _relevant(error.errors(include_url=False))
    return f"{source}: " + "; ".join(_describe(options, entry) for entry in entries)


def _relevant(entries: list[Any]) -> list[Any]:
    """Without consequences of other errors: the other members of a union, and the length of a list without bad items.

    In the location of an error, pydantic puts the member of a union (``constrained-str``, or the name of a section's
    class) after the option's name. A mapping was meant for the section, and anything else for the other members.
    """
    sections = {section.__name__ for section in _subclasses(Options)}
    kept = []
    for entry in entries:
        labels = [part for part in entry["loc"] if part in sections or str(part).startswith("constrained-")]
        location = tuple(part for part in entry["loc"] if part not in labels)
        if labels:
            as_section = labels[0] in sections
            others = [other for other in entries if other is not entry and other["loc"][: len(location)] == location]
            deeper = len(entry["loc"]) > entry["loc"].index(labels[0]) + 1
            meant = deeper or isinstance(entry["input"], dict) if as_section else not isinstance(entry["input"], dict)
            if others and not meant:
                continue
        kept.append({**entry, "loc": location})
    return [
        entry
        for entry in kept
        if entry["type"] != "too_short"
        or not any(other is not entry and other["loc"][: len(entry["loc"])] == entry["loc"] for other in kept)
    ]


def _subclasses(kind: type[Options]) -> list[type[Options]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _subclasses(child))]


def _describe(options: type[Options], error: Any) -> str:
    name = ""
    for part in error["loc"]:
        name += f"[{part}]" if isinstance(part, int) and name else f".{part}" if name else str(part)
    if error["type"] == "extra_forbidden":
        return f"unknown option {name!r}{suggest_option(options, name)}"
    if error["type"] == "missing" and isinstance(error["loc"][-1], str):
        return f"option {name!r} is missing"
    if error["type"] == "value_error":
        return f"section {name!r}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    message = error["msg"]
    for pattern, replacement in _MESSAGES:
        message = re.sub(pattern, replacement, message)
    value = list(error["input"]) if isinstance(error["input"], tuple) else error["input"]
    return f"option {name!r} is {value!r}; {message[:1].lower() + message[1:]}"


def _type_at(options: type[Options], name: str) -> Any:
    """Type of the option or section at a dotted name, or None if there is none."""
    annotation: Any = options
    for part in name.split("."):
        if not is_section(annotation):
            return None
        annotation = field_type(annotation, part)
    return annotation


def _accepts_text(annotation: Any) -> bool:
    members = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return any(member in (str, Path) or isinstance(member, str) for member in members)
