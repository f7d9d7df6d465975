"""AWS's own description of its requests, as botocore ships it: what a request may hold is checked against it without a network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from frcnn.errors import UserError

# Java's character classes, which the patterns of some members use, in Python's words; wider, never narrower.
_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"\p{M}": r"\w",
    r"\p{Alnum}": r"\w",
    r"\p{P}": r"\W",
    r"\p{S}": r"\W",
}
_CLASSES |= {r"\p{ASCII}": r"[\x00-\x7f]"}


def check_request(operation: str, request: Mapping[str, Any], service: str = "sagemaker") -> None:
    """Check a request's members, types, lengths, ranges, patterns and enumerations.

    botocore's validator knows members, types and lower bounds; the others are in the same model and checked here.

    Args:
        operation: ``"CreateTrainingJob"`` and the like.
        request: keyword arguments of the client's method.
        service: name of the service in boto3.

    Raises:
        UserError: names every member that does not fit.
    """
    validate = _botocore("validate")
    shape = _service_model(service).operation_model(operation).input_shape
    report = validate.ParamValidator().validate(request, shape)
    problems = report.generate_report().splitlines() or list(_limits("", request, shape))
    if problems:
        raise UserError(f"{operation} request: " + "; ".join(problem.rstrip(".") for problem in problems))


def partition_suffix(region: str) -> str:
    """Domain under which a region's services live: ``amazonaws.com``, ``amazonaws.com.cn``, …

    Raises:
        UserError: no partition has such a region.
    """
    partitions = _botocore("loaders").create_loader().load_data("partitions")["partitions"]
    for partition in partitions:
        if region in partition["regions"] or re.match(partition["regionRegex"], region):
            return str(partition["outputs"]["dnsSuffix"])
    raise UserError(f"region {region!r} is none of AWS's; expected a name such as us-east-1 or cn-north-1")


def _limits(path: str, value: Any, shape: Any) -> Iterator[str]:
    """What of a request of the right structure lies outside the model's limits."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _limits(f"{path}.{name}" if path else name, member, shape.members[name])
    elif shape.type_name == "list":
        yield from _beyond(path, len(value), shape, "entries")
        for position, member in enumerate(value):
            yield from _limits(f"{path}[{position}]", member, shape.member)
    elif shape.type_name == "map":
        yield from _beyond(path, len(value), shape, "entries")
        for key, member in value.items():
            yield from _limits(f"the key {key!r} of {path}", key, shape.key)
            yield from _limits(f"{path}[{key!r}]", member, shape.value)
    elif shape.type_name == "string":
        yield from _text(path, value, shape)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _beyond(path, value, shape, "")


def _text(path: str, value: str, shape: Any) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        near = difflib.get_close_matches(value, shape.enum, n=3)
        known = near if near else shape.enum[:8]
        yield f"{path} is {value!r}; expected {'something like' if len(shape.enum) > 8 else 'one of'} {', '.join(known)}"
        return
    yield from _beyond(path, len(value), shape, "characters")
    pattern = shape.metadata.get("pattern")
    compiled = _compiled(pattern) if pattern else None
    if compiled and not compiled.fullmatch(value):
        yield f"{path} is {value!r}, which does not match {pattern}"


def _beyond(path: str, size: float, shape: Any, unit: str) -> Iterator[str]:
    least, most = (shape.metadata.get(bound, size) for bound in ("min", "max"))
    if not least <= size <= most:
        bound = f"at most {most}" if size > most else f"at least {least}"
        yield f"{path} {'has' if unit else 'is'} {size} {unit}".rstrip() + f", {bound} allowed"


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern in Python's words; None where it has none, so that AWS is the first to check it."""
    for theirs, ours in _CLASSES.items():
        pattern = pattern.replace(theirs, ours)
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        return None


@lru_cache(maxsize=4)
def _service_model(service: str) -> Any:
    description = _botocore("loaders").create_loader().load_service_model(service, "service-2")
    return _botocore("model").ServiceModel(description)


def _botocore(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"botocore.{module}")
    except ImportError as error:
        raise UserError(
            f"starting SageMaker jobs needs boto3 ({error}); pip install -e '.[sagemaker]' in frcnn's folder"
        ) from error
