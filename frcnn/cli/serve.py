"""An endpoint on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from frcnn.cli.console import PATH, example
from frcnn.errors import UserError
from frcnn.serving.options import ServeOptions

_NEEDED = (
    "flask",
    "gunicorn",
    "prometheus_client",
)  # the extra "serve"; the server's processes import some of them late
_DEFAULTS = ServeOptions(Path())


@click.command(
    epilog=example(
        "frcnn serve --model runs/bccd/model --port 8080",
        "frcnn serve --model model.tar.gz --no-nginx --no-page --variant blue",
    )
)
@click.option(
    "--model",
    type=PATH,
    required=True,
    help="Model folder that train wrote, a folder that holds one, or a model.tar.gz.",
)
@click.option("--port", default=_DEFAULTS.port, show_default=True)
@click.option("--bind", default=_DEFAULTS.bind, show_default=True, help="Address; 0.0.0.0 lets other machines in.")
@click.option("--workers", type=int, help="Processes with a model each.  [default: one a GPU, or one]")
@click.option(
    "--nginx/--no-nginx",
    default=_DEFAULTS.nginx,
    show_default=True,
    help="nginx in front; without it slow callers hold threads.",
)
@click.option(
    "--page/--no-page", default=_DEFAULTS.page, show_default=True, help="The page / on which to try the model."
)
@click.option(
    "--max-batch", type=int, help="Pictures that run together; 1 switches that off.  [default: 8 on a GPU, else 1]"
)
@click.option(
    "--batch-wait-ms",
    default=_DEFAULTS.batch_wait_ms,
    show_default=True,
    help="Longest wait for pictures to run together.",
)
@click.option(
    "--queue-size",
    default=_DEFAULTS.queue_size,
    show_default=True,
    help="Pictures that wait; more are refused with 503.",
)
@click.option(
    "--request-timeout", default=_DEFAULTS.request_timeout, show_default=True, help="Seconds that a request may take."
)
@click.option(
    "--drain-timeout",
    default=_DEFAULTS.drain_timeout,
    show_default=True,
    help="Seconds to finish requests after SIGTERM.",
)
@click.option("--max-body-mb", default=_DEFAULTS.max_body_mb, show_default=True, help="MiB of a request.")
@click.option("--max-pixels", default=_DEFAULTS.max_pixels, show_default=True, help="Pixels of a picture.")
@click.option("--max-images", default=_DEFAULTS.max_images, show_default=True, help="Pictures of a request.")
@click.option("--variant", help="Name that answers and logs carry.")
@click.option("--model-version", help="The same for the model.  [default: from the weights' SHA-256]")
def serve(**options: object) -> None:
    """Serve a model over HTTP.

    docs/serving.md says what is asked and answered. SIGTERM or Ctrl-C finishes the accepted requests and ends with 0; the exit
    code is 1 where a part of the server died.
    """
    if missing := [module for module in _NEEDED if not importlib.util.find_spec(module)]:
        raise UserError(f"serving needs {', '.join(missing)}; pip install -e '.[serve]' in frcnn's folder")
    from frcnn.serving.server import serve as run

    raise click.exceptions.Exit(run(ServeOptions(**options)))  # type: ignore[arg-type]
