"""The supervisor of nginx and gunicorn."""

from __future__ import annotations

from frcnn.serving.options import ServeOptions


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; the exit code is 0 after those and another one where a part died.

    Raises:
        UserError: no model folder, the port is taken, or nginx is missing.
    """
    raise NotImplementedError(options)
