"""The command doctor."""

from __future__ import annotations

import click

from frcnn.cli.console import example


@click.command(epilog=example("frcnn doctor"))
def doctor() -> None:
    """Report versions, devices and what is missing.

    The exit code is 1 if frcnn cannot run on this machine.
    """
    from frcnn.doctor import examine

    broken = 0
    for finding in examine():
        broken += not finding.works
        mark = " " if finding.works else "!"
        click.echo(
            f"{mark} {finding.topic:<14} {finding.found}" + (f"\n{'':17}-> {finding.advice}" if finding.advice else "")
        )
    if broken:
        raise click.exceptions.Exit(1)
