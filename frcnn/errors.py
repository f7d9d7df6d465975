"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend: the command line prints the message alone and exits with 2.

    The message is one sentence or two: what (file, id, option), the value found, what was expected, what to do.
    """
