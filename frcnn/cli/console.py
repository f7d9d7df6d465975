"""What all verbs share: a mistake in one sentence, a quiet Ctrl-C, a look at outputs first, examples in help pages, a bar."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from frcnn.errors import EXIT_USER_ERROR, UserError, print_message

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
FULL = (errno.ENOSPC, errno.EDQUOT)  # told without the name of the file


class Verbs(click.Group):
    """Tells a user's mistakes and unusable files in one sentence, and leaves quietly on Ctrl-C; other exceptions keep their trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as mistake:
            print_message(str(mistake))
            raise click.exceptions.Exit(EXIT_USER_ERROR) from None
        except OSError as error:
            if error.filename is None and error.errno not in FULL:
                raise
            what = "there is no room to write" if error.filename is None else f"{error.filename} cannot be used"
            print_message(f"{what} ({error.strerror or error})")
            raise click.exceptions.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            print_message("interrupted")
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def example(*lines: str) -> str:
    """A help page's last paragraph, kept from being wrapped."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def check_output(path: Path, option: str, *, folder: bool) -> None:
    """Look whether a file or folder can be written, before the work whose result it is for; nothing is made.

    Raises:
        UserError: it cannot; names the option and what is in the way.
    """
    found = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if found.is_dir() != (folder or found != path.absolute()):
        kind, wanted = ("folder", "file") if found.is_dir() else ("file", "folder")
        raise UserError(
            f"{option} is {path}, which cannot be written: {found} is a {kind}, where a {wanted} is needed; give another place"
        )
    if not os.access(found, os.W_OK):
        raise UserError(
            f"{option} is {path}, which cannot be written: this user has no right to {found}; give another place"
        )


class Output(click.Path):
    """A file or folder that a verb writes, looked at as soon as the verb is called."""

    def __init__(self, *, folder: bool) -> None:
        super().__init__(path_type=Path)
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        check_output(path, param.opts[0] if param else "the output", folder=self.folder)
        return path


PATH = click.Path(path_type=Path)
OUT_FILE, OUT_FOLDER = Output(folder=False), Output(folder=True)
SPLITS = ("train", "validation", "test")


@contextlib.contextmanager
def counted(total: int, doing: str, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error where that is a terminal; gives the function that is told (done, all)."""
    from tqdm import tqdm

    with tqdm(total=total, desc=doing, unit=unit, disable=None) as bar:

        def count(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield count
