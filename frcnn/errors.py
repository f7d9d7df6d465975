"""The exception for mistakes of the user, and the one way to print a message on standard error."""

from __future__ import annotations

import sys

EXIT_FAILURE, EXIT_USER_ERROR = 1, 2  # exit codes: a fault of frcnn or of the machine; an error the user can fix


class UserError(Exception):
    """An error the user can fix: the command line prints its message without a stack trace and exits with 2.

    The message is one or two sentences: what is wrong (file, id or option), the value, what was expected, and what
    to do.
    """


# Control characters would let a name in a file move the cursor or recolor the terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def print_message(message: str) -> None:
    """Print ``frcnn: message`` on standard error in one write, so that lines of several processes do not mix."""
    sys.stderr.write(f"frcnn: {message.translate(_CONTROL)}\n")
    sys.stderr.flush()
