"""Options and output that all AWS commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from frcnn.atomic import write_atomically
from frcnn.cli.console import OUT_FILE, PATH
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.aws.autoscaling import Call

F = TypeVar("F", bound=Callable[..., Any])

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Validate everything and print the requests without calling AWS."
)
json_option = click.option("--json", "json_file", type=OUT_FILE, help="Also write the result, or the requests, here.")
price_option = click.option(
    "--price", type=click.FloatRange(0), help="Price of an instance per hour, to print the cost."
)
region_option = click.option("--region", help="AWS region; default: the configured one.")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")


def config_option(directory: str) -> Callable[[F], F]:
    """``--config FILE``, like the examples in ``directory``."""
    help_text = f"YAML file, like those in {directory}."
    return click.option("--config", "file", type=PATH, required=True, help=help_text)


def parse_pairs(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping.

    Raises:
        UserError: a text has another form, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} is {text!r}; expected NAME=VALUE, for example {example}")
        if name in pairs:
            raise UserError(f"{option} names {name!r} twice")
        pairs[name] = value
    return pairs


def parse_weight(option: str, text: str) -> float:
    """A weight of a variant.

    Raises:
        UserError: it is not a number of at least 0.
    """
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise UserError(f"{option} has the weight {text!r}; expected a number of at least 0, for example 0.5")
    return weight


def plan(calls: Sequence[Call]) -> dict[str, list[dict[str, Any]]]:
    """Requests by operation, in the order in which they are sent."""
    operations: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        operations.setdefault(call.operation, []).append(call.request)
    return operations


def print_plan(requests: Any, json_file: Path | None) -> None:
    """Print the requests of a dry run as JSON on standard output."""
    click.echo(json.dumps(requests, indent=2))
    write_json(requests, json_file)


def write_json(result: Any, json_file: Path | None) -> None:
    """Write a result to the file of ``--json``, if it is given."""
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_file, json.dumps(result, indent=2, default=str) + "\n")
