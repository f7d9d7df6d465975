"""Offline validation of requests against AWS's service model, which botocore ships."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from frcnn.errors import UserError


def check_request(operation: str, request: Mapping[str, Any], service: str = "sagemaker") -> None:
    """Check a request's members, types, lengths, ranges, patterns and enumerations.

    botocore's validator checks members, types and lower bounds; the other limits of the same model are checked here.

    Args:
        operation: such as ``"CreateTrainingJob"``.
        request: keyword arguments of the client's method.
        service: name of the service in boto3.

    Raises:
        UserError: names every invalid member.
    """
    shape = _service_model(service).operation_model(operation).input_shape
    report = _botocore("validate").ParamValidator().validate(request, shape)
    problems = report.generate_report().splitlines() or list(_violations("", request, shape))
    if problems:
        raise UserError(f"{operation} request: " + "; ".join(problem.rstrip(".") for problem in problems))


def partition_suffix(region: str) -> str:
    """Domain of a region's services: ``amazonaws.com``, ``amazonaws.com.cn``, …

    Raises:
        UserError: no partition has such a region.
    """
    partitions = _botocore("loaders").create_loader().load_data("partitions")["partitions"]
    for partition in partitions:
        if region in partition["regions"] or re.match(partition["regionRegex"], region):
            return str(partition["outputs"]["dnsSuffix"])
    raise UserError(f"region {region!r} is not an AWS region; expected a name such as us-east-1 or cn-north-1")


def _violations(path: str, value: Any, shape: Any) -> Iterator[str]:
    """Members of a structurally valid request that are outside the model's limits."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _violations(f"{path}.{name}" if path else name, member, shape.members[name])
    elif shape.type_name == "list":
        yield from _check_bounds(path, len(value), shape, "entries")
        for position, member in enumerate(value):
            yield from _violations(f"{path}[{position}]", member, shape.member)
    elif shape.type_name == "map":
        yield from _check_bounds(path, len(value), shape, "entries")
        for key, member in value.items():
            yield from _violations(f"the key {key!r} of {path}", key, shape.key)
            yield from _violations(f"{path}[{key!r}]", member, shape.value)
    elif shape.type_name == "string":
        yield from _check_string(path, value, shape)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _check_bounds(path, value, shape, "")


def _check_string(path: str, value: str, shape: Any) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        near = difflib.get_close_matches(value, shape.enum, n=3)
        known = ", ".join(near or shape.enum[:8])
        yield f"{path} is {value!r}; expected {'a value like' if len(shape.enum) > 8 else 'one of'} {known}"
        return
    yield from _check_bounds(path, len(value), shape, "characters")
    pattern = shape.metadata.get("pattern")
    compiled = _compile(pattern) if pattern else None
    if compiled and not compiled.fullmatch(value):
        yield f"{path} is {value!r}, which does not match {pattern}"


def _check_bounds(path: str, size: float, shape: Any, unit: str) -> Iterator[str]:
    lower, upper = (shape.metadata.get(bound, size) for bound in ("min", "max"))
    if not lower <= size <= upper:
        bound = f"at most {upper}" if size > upper else f"at least {lower}"
        yield f"{path} {'has' if unit else 'is'} {size} {unit}".rstrip() + f", {bound} allowed"


@lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[str] | None:
    """The pattern as a Python regular expression; None if only Java knows it, and AWS checks it."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        return None


@lru_cache(maxsize=4)
def _service_model(service: str) -> Any:
    description = _botocore("loaders").create_loader().load_service_model(service, "service-2")
    return _botocore("model").ServiceModel(description)


def _botocore(module: str) -> Any:
    try:
        return importlib.import_module(f"botocore.{module}")
    except ImportError as error:
        raise UserError(
            f"SageMaker commands need boto3 ({error}); run pip install -e '.[sagemaker]' in the frcnn repository"
        ) from error
