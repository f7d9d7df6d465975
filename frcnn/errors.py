"""The exception for mistakes of the user, and the one way to print a message on standard error."""

from __future__ import annotations

import sys

EXIT_FAILURE, EXIT_USER_ERROR = 1, 2  # exit codes: a fault of frcnn or of the machine; an error the user can fix
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells report them


class UserError(Exception):
    """An error the user can fix: the command line prints its message without a stack trace and exits with 2.

    The message is one or two sentences: what is wrong (file, id or option), the value, what was expected, and what
    to do.
    """


# Control characters would let a name in a file move the cursor or recolor the terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


# A line of a message that quotes a value of megabytes is shortened to its start and its end, which says what to do.
_MAX_LINE, _LINE_START, _LINE_END = 2000, 1200, 600


def print_message(message: str) -> None:
    """Print ``frcnn: message`` on standard error in one write, so that lines of several processes do not mix."""
    text = "\n".join(map(_shorten, message.split("\n"))).translate(_CONTROL)
    sys.stderr.write(f"frcnn: {text}\n")
    sys.stderr.flush()


def _shorten(line: str) -> str:
    if len(line) <= _MAX_LINE:
        return line
    left_out = len(line) - _LINE_START - _LINE_END
    return f"{line[:_LINE_START]}… ({left_out:,} characters left out) …{line[-_LINE_END:]}"
