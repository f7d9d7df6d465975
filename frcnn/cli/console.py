"""What all commands share: one-sentence errors, output paths checked first, examples in help pages, progress bars."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from frcnn.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, print_message

# Reported by the system without a file name: a full disk, a quota, and a limit of the size of files.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEST_OPTIONS = (
    "Test-time augmentation and Soft-NMS: options of the group 'test' of docs/configuration.md, such as "
    "'flip=true scales=[1,1.25] soft_nms=gaussian'.  [default: those of the model's configuration]"
)


class Commands(click.Group):
    """Reports user errors and unusable files in one sentence and exits quietly on Ctrl-C.

    Other exceptions keep their stack trace.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            print_message(str(error))
            raise click.exceptions.Exit(EXIT_USER_ERROR) from None
        except OSError as error:
            if error.filename is None and error.errno not in DISK_FULL:
                raise
            what = "a file cannot be written" if error.filename is None else f"{error.filename} cannot be used"
            print_message(f"{what} ({error.strerror or error})")
            raise click.exceptions.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            print_message("interrupted")
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def example(*lines: str) -> str:
    """The last paragraph of a help page, which click does not wrap."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def check_output(path: Path, option: str, *, folder: bool) -> None:
    """Check that an output can be written, before the work starts; creates nothing.

    Raises:
        UserError: it cannot; names the option and the obstacle.
    """
    obstacle = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if obstacle.is_dir() != (folder or obstacle != path.absolute()):
        kind, wanted = ("folder", "file") if obstacle.is_dir() else ("file", "folder")
        raise UserError(
            f"{option} is {path}, which cannot be written: {obstacle} is a {kind}, expected a {wanted}; "
            "give another path"
        )
    if not os.access(obstacle, os.W_OK):
        raise UserError(
            f"{option} is {path}, which cannot be written: no write permission for {obstacle}; give another path"
        )


class Input(click.Path):
    """Parameter type of a path; ``~`` is expanded, which shells do not do in ``--option=~/path``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(os.path.expanduser(os.fsdecode(super().convert(value, param, ctx))))


class Output(Input):
    """Parameter type of an output path, which is checked when the command line is parsed."""

    def __init__(self, *, folder: bool) -> None:
        super().__init__()
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        check_output(path, param.opts[0] if param else "the output", folder=self.folder)
        return path


PATH = Input()
OUT_FILE, OUT_FOLDER = Output(folder=False), Output(folder=True)
SPLITS = ("train", "validation", "test")
BOX_FORMATS = ("xywh", "xyxy", "normalized_xywh")  # of option data.box_format


@contextlib.contextmanager
def counted(total: int, doing: str, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """Progress bar on standard error, if that is a terminal; yields the callback ``(done, total)``."""
    from tqdm import tqdm

    with tqdm(total=total, desc=doing, unit=unit, disable=None) as bar:

        def count(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield count
