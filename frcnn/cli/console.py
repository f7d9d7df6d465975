"""What all verbs share: a mistake in one sentence, a quiet Ctrl-C, examples in help pages, a bar for what takes long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from frcnn.errors import UserError

MISTAKE, INTERRUPTED = 2, 130  # exit codes: the user's mistake; 128 + SIGINT, as shells have it


class Verbs(click.Group):
    """Tells a user's mistakes in one sentence and leaves quietly on Ctrl-C; other exceptions keep their trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as mistake:
            tell(str(mistake))
            raise click.exceptions.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            tell("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from None


def example(*lines: str) -> str:
    """A help page's last paragraph, kept from being wrapped."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


PATH = click.Path(path_type=Path)
SPLITS = ("train", "validation", "test")


@contextlib.contextmanager
def counted(total: int, doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error where that is a terminal; gives the function that is told (done, all)."""
    from tqdm import tqdm

    with tqdm(total=total, desc=doing, unit="image", disable=None) as bar:

        def count(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield count


def tell(sentence: str) -> None:
    click.echo(f"frcnn: {sentence}", err=True)
