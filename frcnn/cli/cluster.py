"""Verbs for several hosts."""

from __future__ import annotations

import click

from frcnn.cli.console import example


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=example(
        "frcnn launch --hosts a:4,b:4 -- train --config configs/coco_r50_fpn_1x.yaml data.root=coco",
        "frcnn launch --hosts localhost:2 -- train --config configs/shapes_r18_fpn.yaml data.root=shapes",
    ),
)
@click.option(
    "--hosts", required=True, metavar="HOST:PROCESSES,...", help="Machines, and how many processes (GPUs) on each."
)
@click.option("--interface", help="Network interface between the hosts, such as eth0.  [default: mpirun's choice]")
@click.argument("arguments", nargs=-1, required=True, metavar="VERB [ARGUMENT]...", type=click.UNPROCESSED)
def launch(hosts: str, interface: str | None, arguments: tuple[str, ...]) -> None:
    """Run train or evaluate on many processes and hosts.

    Needs Open MPI 4.1 and Horovod on all hosts, frcnn at the same place, and ssh from here to each without a password. Every
    host is asked first; then the mpirun line is shown and run. Ctrl-C or SIGTERM lets all processes finish their step, save
    and stop. docs/distributed.md says more.
    """
    from frcnn.distributed.mpirun import launch as run
    from frcnn.distributed.mpirun import parse_hosts

    raise click.exceptions.Exit(run(parse_hosts(hosts), arguments, interface))
