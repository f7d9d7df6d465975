"""Commands for several hosts."""

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
    "--hosts", required=True, metavar="HOST:PROCESSES,...", help="Hosts and the number of processes (GPUs) on each."
)
@click.option("--interface", help="Network interface between the hosts, such as eth0.  [default: mpirun's choice]")
@click.argument("arguments", nargs=-1, required=True, metavar="COMMAND [ARGUMENT]...", type=click.UNPROCESSED)
def launch(hosts: str, interface: str | None, arguments: tuple[str, ...]) -> None:
    """Run train or evaluate on many processes and hosts.

    Requires Open MPI 4.1 and Horovod on all hosts, frcnn at the same path, and ssh from here to each host without a
    password. Checks every host first, then prints and runs the mpirun command. On Ctrl-C or SIGTERM all processes
    finish their step, save a checkpoint and stop. See docs/distributed.md.
    """
    from frcnn.distributed.mpirun import launch as run
    from frcnn.distributed.mpirun import parse_hosts

    raise click.exceptions.Exit(run(parse_hosts(hosts), arguments, interface))
