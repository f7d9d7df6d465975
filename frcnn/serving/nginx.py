"""nginx in front of gunicorn: its configuration, and the folder that both use."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from frcnn.errors import UserError, print_message
from frcnn.serving.options import ServeOptions
from frcnn.serving.scratch import MAX_SOCKET_PATH, SOCKET, listen_address, scratch_folder

EXTRA_TIMEOUT = 10.0  # seconds that nginx waits for a worker beyond the worker's own request timeout
_USERS = ("www-data", "nginx", "nobody")  # of nginx's packages; its workers run as the first that exists


def find_nginx(wanted: bool | None) -> str | None:
    """Path of the program; None to serve without it.

    Args:
        wanted: True if it is required, False to serve without it, None to use it if it is installed.

    Raises:
        UserError: it is required and missing.
    """
    if wanted is False:
        return None
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found:
        return found
    if wanted:
        raise UserError(
            "nginx is not installed; run scripts/install_system_packages.sh serve, or serve without it: --no-nginx"
        )
    print_message(
        "nginx is not installed: serving without it, so that each slow client occupies a thread (see docs/serving.md)"
    )
    return None


@contextlib.contextmanager
def nginx_folder() -> Iterator[Path]:
    """A private folder for the socket and for nginx's files, owned by the user that nginx's workers run as."""
    with scratch_folder("frcnn-nginx-", MAX_SOCKET_PATH - len(SOCKET) - 1) as folder:
        user = _nginx_user()
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        yield folder


def nginx_config(options: ServeOptions, folder: Path) -> str:
    """The template ``nginx.conf`` with its ``@name@`` placeholders filled in."""
    user = _nginx_user()
    values = {
        "user": f"user {user.pw_name} {grp.getgrgid(user.pw_gid).gr_name};" if user else "",
        "folder": str(folder).replace("\\", "\\\\").replace('"', '\\"'),
        "processes": str(min(os.cpu_count() or 1, 4)),
        "drain": f"{options.drain_timeout:g}",
        "body": str(options.max_body_mb),
        "socket": SOCKET,
        "address": listen_address(options),
        "timeout": f"{options.request_timeout + EXTRA_TIMEOUT:.0f}",
    }
    template = (Path(__file__).parent / "nginx.conf").read_text()
    return re.sub(rf"@({'|'.join(values)})@", lambda match: values[match[1]], template)


def _nginx_user() -> pwd.struct_passwd | None:
    """The user of nginx's workers if root starts it; None if they run as the current user."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return pwd.getpwuid(0)
