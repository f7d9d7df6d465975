"""``frcnn serve``: an HTTP endpoint on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import click

from frcnn.cli.console import PATH, example
from frcnn.errors import UserError
from frcnn.serving.options import ServeOptions

# Of the extra "serve"; some are imported late, by the server's processes.
_REQUIRED_PACKAGES = ("flask", "gunicorn", "prometheus_client")


def _serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a command-line option for every field of ServeOptions, with its default and description."""
    for name, field in reversed(ServeOptions.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        settings: dict[str, Any] = {"help": (field.description or "").replace("null: ", "default: ")}
        if field.is_required():
            settings |= {"required": True, "type": PATH}
        else:
            settings |= {
                "type": _plain_type(field.annotation),
                "default": field.default,
                "show_default": field.default is not None,
            }
        if _plain_type(field.annotation) is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        command = click.option(flag, name, **settings)(command)
    return command


def _plain_type(annotation: Any) -> Any:
    """``int`` of ``Annotated[int, ...] | None``."""
    plain = next((member for member in get_args(annotation) if member is not NoneType), annotation)
    return get_args(plain)[0] if get_origin(plain) is Annotated else plain


@click.command(
    epilog=example(
        "frcnn serve --model runs/bccd/model --port 8080",
        "frcnn serve --model model.tar.gz --no-nginx --no-page --variant blue",
    )
)
@_serve_options
def serve(**options: Any) -> None:
    """Serve a model over HTTP.

    docs/serving.md describes requests and responses. SIGTERM or Ctrl-C finishes the accepted requests and exits with 0;
    the exit code is 1 if a process of the server died.
    """
    if missing := [module for module in _REQUIRED_PACKAGES if not importlib.util.find_spec(module)]:
        raise UserError(f"serving needs {', '.join(missing)}; run pip install -e '.[serve]' in frcnn's folder")
    from frcnn.serving.server import serve as run

    raise click.exceptions.Exit(run(ServeOptions.from_tree(options, "frcnn serve")))
