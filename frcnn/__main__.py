"""The program ``frcnn``, also ``python -m frcnn``."""

from __future__ import annotations

import sys
from typing import NoReturn

from frcnn.errors import EXIT_INTERRUPTED, print_message


def run() -> NoReturn:
    """Run a command, and exit without TensorFlow's teardown if it was imported."""
    try:
        from frcnn.cli import main  # here, because importing takes most of a second, in which Ctrl-C may be pressed

        main(prog_name="frcnn")
    except KeyboardInterrupt:
        print_message("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as end:
        if "tensorflow" not in sys.modules or not isinstance(end.code, int):
            raise
        from frcnn.distributed.exit import exit_process

        exit_process(end.code)
    raise AssertionError("click commands end with SystemExit")


if __name__ == "__main__":
    run()
