"""The endpoint of a container: SageMaker's variables -> ``ServeOptions`` -> the server; ``python -m frcnn.container.serve``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from frcnn.container.environment import ServingEnvironment
from frcnn.errors import UserError, print_message
from frcnn.serving.options import ServeOptions

PORT = 8080
_CONTAINERS = ("model", "port", "bind")  # options that the container decides


def main() -> int:
    """Serve ``/opt/ml/model``, or call the user's own ``SAGEMAKER_SERVICE_MODULE``; returns the exit code."""
    try:
        hosting = ServingEnvironment.read()
        if hosting.service_module:
            return int(named_function(hosting.service_module)() or 0)
        from frcnn.serving.server import serve

        return serve(serve_options(hosting))
    except UserError as mistake:
        print_message(str(mistake))
        return 1


def serve_options(hosting: ServingEnvironment) -> ServeOptions:
    """Options of the endpoint: SageMaker's variables, then ``FRCNN_SERVE_<OPTION>`` on top.

    Raises:
        UserError: an option is unknown or out of range.
    """
    values: dict[str, Any] = {"model": hosting.model, "port": hosting.port or PORT, "bind": "0.0.0.0", "page": False}
    for name, value in (
        ("workers", hosting.workers),
        ("request_timeout", hosting.timeout),
        ("max_body_mb", hosting.payload_mb),
    ):
        if value is not None:
            values[name] = value
    known = {field.name: str(field.type) for field in dataclasses.fields(ServeOptions) if field.name not in _CONTAINERS}
    for name, text in hosting.options.items():
        variable = f"FRCNN_SERVE_{name.upper()}"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"unknown variable {variable}" + (f"; did you mean FRCNN_SERVE_{near[0].upper()}?" if near else "")
            )
        values[name] = _value(variable, text, known[name])
    return ServeOptions(**values)


def named_function(name: str) -> Callable[[], Any]:
    """The function of ``package.module:function``.

    Raises:
        UserError: there is none of this name.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "main")
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"SAGEMAKER_SERVICE_MODULE is {name!r}, which cannot be used ({error}); expected package.module:function"
        ) from error
    return found


def _value(variable: str, text: str, kind: str) -> Any:
    """A text as the type of its field."""
    if text.lower() in ("none", "null", "") and "None" in kind:
        return None
    if kind.startswith("bool") and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    if kind.startswith("str"):
        return text
    try:
        number = json.loads(text)
    except ValueError:
        number = None
    wanted: tuple[type, ...] = (int,) if kind.startswith("int") else (int, float)
    if kind.startswith("bool") or isinstance(number, bool) or not isinstance(number, wanted):
        expected = (
            "true or false" if kind.startswith("bool") else "an integer" if kind.startswith("int") else "a number"
        )
        raise UserError(f"variable {variable} is {text!r}; expected {expected}")
    return number


if __name__ == "__main__":
    sys.exit(main())
