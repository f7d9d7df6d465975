"""Serving inside the image (``python -m frcnn.container.serve``): SageMaker's variables become ``ServeOptions``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from typing import Any

from frcnn.config.options import coerce_text, field_type
from frcnn.container.environment import SERVE, ServingEnvironment
from frcnn.errors import UserError, print_message
from frcnn.serving.options import ServeOptions
from frcnn.startup import check_temporary_folder

PORT = 8080
_FIXED = ("model", "port", "bind")  # options that SageMaker's contract determines


def main() -> int:
    """Serve ``/opt/ml/model``, or call the user's ``SAGEMAKER_SERVICE_MODULE``; returns the exit code."""
    try:
        hosting = ServingEnvironment.read()
        check_temporary_folder()
        if hosting.service_module:
            return int(named_function(hosting.service_module)() or 0)
        if hosting.program:
            raise UserError(
                f"SAGEMAKER_PROGRAM is {hosting.program!r}, but this endpoint does not run inference programs: remove "
                "the variable, or set SAGEMAKER_SERVICE_MODULE=package.module:function to run your own server"
            )
        from frcnn.serving.server import serve

        return serve(serve_options(hosting))
    except UserError as error:
        print_message(str(error))
        return 1


def serve_options(hosting: ServingEnvironment) -> ServeOptions:
    """Options of the endpoint; ``FRCNN_SERVE_<OPTION>`` takes precedence over SageMaker's own variables.

    Raises:
        UserError: an option is unknown or out of range.
    """
    values: dict[str, Any] = {
        "model": hosting.model,
        "port": hosting.port or PORT,
        "bind": "0.0.0.0",
        "page": False,
        "nginx": True,
    }
    for name, value in (
        ("workers", hosting.workers),
        ("request_timeout", hosting.timeout),
        ("max_body_mb", hosting.payload_mb),
    ):
        if value is not None:
            values[name] = value
    for name, text in hosting.options.items():
        variable = f"{SERVE}{name.upper()}"
        annotation = field_type(ServeOptions, name) if name not in _FIXED else None
        if annotation is None:
            near = difflib.get_close_matches(name, ServeOptions.model_fields.keys() - set(_FIXED), n=1)
            raise UserError(
                f"unknown variable {variable}" + (f"; did you mean {SERVE}{near[0].upper()}?" if near else "")
            )
        values[name] = coerce_text(text or "null", annotation)
    return ServeOptions.from_tree(values, f"variables {SERVE}*" if hosting.options else "SageMaker's variables")


def named_function(name: str) -> Callable[[], Any]:
    """The function named by ``package.module:function``; ``main`` if only a module is given.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "main")
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"SAGEMAKER_SERVICE_MODULE is {name!r}, which cannot be used ({error}); expected package.module:function"
        ) from error
    return found


if __name__ == "__main__":
    sys.exit(main())
