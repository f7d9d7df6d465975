"""SageMaker endpoints: deploy, invoke, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frcnn.cli.aws_options import (
    config_option,
    dry_run_option,
    json_option,
    overrides_argument,
    parse_pairs,
    parse_weight,
    plan,
    price_option,
    print_plan,
    region_option,
    write_json,
)
from frcnn.cli.console import OUT_FOLDER, PATH, example
from frcnn.errors import UserError, print_message

SUFFIXES = {"application/json": ".json", "application/jsonlines": ".jsonl", "image/png": ".png", "image/jpeg": ".jpg"}
NPY = "application/x-npy"


@click.command(
    epilog=example(
        "frcnn deploy --config configs/endpoints/bccd.yaml --dry-run --price 1.4",
        "frcnn deploy --config configs/endpoints/bccd.yaml --variant next=s3://my-bucket/b/model.tar.gz:0.1",
        "frcnn deploy --config configs/endpoints/bccd.yaml --shift main=0 --shift next=1",
    )
)
@config_option("configs/endpoints")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME=MODEL[:WEIGHT]",
    help="Add a variant, or replace model and weight of one in the file. MODEL is the S3 address of a model.tar.gz or "
    "the name of an existing model; a new variant has the instances of the file's first one.",
)
@click.option(
    "--shift", multiple=True, metavar="NAME=WEIGHT", help="Only set variants' weights, of the endpoint in service."
)
@dry_run_option
@json_option
@price_option
@overrides_argument
def deploy(
    file: Path,
    variants: tuple[str, ...],
    shift: tuple[str, ...],
    dry_run: bool,
    json_file: Path | None,
    price: float | None,
    overrides: tuple[str, ...],
) -> None:
    """Create a SageMaker endpoint.

    Waits until it is in service. It is billed by the hour until it is deleted: frcnn delete NAME.
    """
    from frcnn.aws.autoscaling import Call
    from frcnn.aws.cost import endpoint_cost
    from frcnn.aws.endpoint import Endpoint, weights_request
    from frcnn.aws.request_file import load_request

    given = [(name, *_split_model(text)) for name, text in parse_pairs("--variant", variants, _VARIANT).items()]
    endpoint = load_request(Endpoint, file, overrides, lambda tree: _set_variants(tree, given))
    weights = {name: parse_weight("--shift", text) for name, text in parse_pairs("--shift", shift, "main=0.5").items()}
    if shift:
        calls = [Call("sagemaker", "update_endpoint_weights_and_capacities", weights_request(endpoint.name, weights))]
    else:
        calls = [
            *(Call("sagemaker", "create_model", model.request()) for model in endpoint.models()),
            Call("sagemaker", "create_endpoint_config", endpoint.config_request()),
            Call("sagemaker", "create_endpoint", endpoint.request()),
            *endpoint.scaling_calls(),
        ]
        print_message(f"cost of every hour until the endpoint is deleted: {endpoint_cost(endpoint, price)}")
    if dry_run:
        print_plan(plan(calls), json_file)
        return
    client = _client(_region_of(endpoint.image))
    if shift:
        client.shift(endpoint.name, weights)
        click.echo(f"weights: {', '.join(f'{name} {weight:g}' for name, weight in weights.items())}")
    else:
        client.deploy(endpoint)
        click.echo(f"endpoint: {endpoint.name}\nto delete it: frcnn delete {endpoint.name}")
    write_json({"endpoint": endpoint.name, "requests": plan(calls)}, json_file)


@click.command(
    epilog=example(
        "frcnn invoke cells photo.jpg --option score_threshold=0.5",
        "frcnn invoke cells photos/*.jpg --accept image/png --out found",
        "frcnn invoke cells-async photo.jpg --s3 s3://my-bucket/inbox",
    )
)
@click.argument("endpoint")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@click.option("--out", type=OUT_FOLDER, help="Write the responses here instead of printing them; required for images.")
@click.option("--accept", default="application/json", show_default=True, help="Media type of the responses.")
@click.option("--variant", help="Variant to ask; default: chosen by the weights.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Such as score_threshold=0.5.")
@click.option("--s3", "inbox", help="S3 folder for the images; required for asynchronous endpoints.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=900.0, show_default=True, help="Seconds to wait, with --s3."
)
@region_option
@dry_run_option
@json_option
def invoke(
    endpoint: str,
    images: tuple[Path, ...],
    out: Path | None,
    accept: str,
    variant: str | None,
    options: tuple[str, ...],
    inbox: str | None,
    timeout: float,
    region: str | None,
    dry_run: bool,
    json_file: Path | None,
) -> None:
    """Send images to a SageMaker endpoint."""
    from frcnn.aws.invocation import invoke_async_request, invoke_request

    media = accept.partition(";")[0].strip()
    if out is None and not media.startswith("application/json"):
        raise UserError(f"--accept is {accept}, which cannot be printed; give a folder with --out")
    if inbox and variant:
        raise UserError("--variant cannot be combined with --s3: an asynchronous endpoint has one variant")
    how: dict[str, Any] = {"accept": accept, "options": dict(parse_pairs("--option", options, "score_threshold=0.5"))}
    addresses = {image: f"{inbox.rstrip('/')}/{image.name}" for image in images} if inbox else {}
    if len(set(addresses.values())) < len(addresses) or (out and len({image.stem for image in images}) < len(images)):
        raise UserError("two images have the same name; send them in two calls")
    requests = [
        invoke_async_request(endpoint, addresses[image], **how)
        if inbox
        else invoke_request(endpoint, image.read_bytes(), variant=variant, **how)
        for image in images
    ]
    if dry_run:
        for request in requests:
            if "Body" in request:
                request["Body"] = f"{len(request['Body'])} bytes"
        print_plan({"invoke_endpoint_async" if inbox else "invoke_endpoint": requests}, json_file)
        return
    client = _client(region)
    answers = []
    for image in images:
        if inbox:
            client.upload_file(image, addresses[image])
            response = client.invoke_async(endpoint, addresses[image], timeout, **how)
        else:
            response = client.invoke(endpoint, image.read_bytes(), variant=variant, **how)
        written = _write_response(out, image, response.body, media) if out else None
        if written is None:
            click.echo(response.body.decode())
        answers.append({"image": str(image), "variant": response.variant, "file": written and str(written)})
    write_json({"endpoint": endpoint, "responses": answers}, json_file)


@click.command(epilog=example("frcnn delete cells --dry-run", "frcnn delete cells cells-async"))
@click.argument("endpoints", nargs=-1, required=True, metavar="ENDPOINT...")
@click.option("--keep-models", is_flag=True, help="Keep the models, for example for batch transforms.")
@region_option
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted, which reads from AWS.")
@json_option
def delete(
    endpoints: tuple[str, ...], keep_models: bool, region: str | None, dry_run: bool, json_file: Path | None
) -> None:
    """Delete SageMaker endpoints.

    Deletes their scaling, configurations and models too; what is in S3 stays.
    """
    client = _client(region)
    lines = []
    for endpoint in endpoints:
        for line in client.delete_endpoint(endpoint, keep_models=keep_models, dry_run=dry_run):
            click.echo(line)
            lines.append(line)
    write_json(lines, json_file)


_VARIANT = "next=s3://my-bucket/runs/b/output/model.tar.gz:0.1"


def _split_model(text: str) -> tuple[str, float]:
    """Model and weight of ``MODEL[:WEIGHT]``; the address of a model contains a colon itself."""
    model, colon, weight = text.rpartition(":")
    if not colon or "/" in weight:
        return text, 1.0
    return model, parse_weight("--variant", weight)


def _set_variants(tree: dict[str, Any], given: list[tuple[str, str, float]]) -> None:
    variants = tree.get("variants") or []
    if not isinstance(variants, list) or not all(isinstance(variant, dict) for variant in variants):
        return  # reported with the name of the file
    for name, model, weight in given:
        chosen = {"name": name, "model": model, "weight": weight}
        place = next((i for i, variant in enumerate(variants) if variant.get("name", "main") == name), None)
        if place is None:
            variants.append({**(variants[0] if variants else {}), **chosen})
        else:
            variants[place] = {**variants[place], **chosen}
    if given:
        tree["variants"] = variants


def _region_of(image: str | None) -> str | None:
    from frcnn.aws.image_uri import region_of_image

    return region_of_image(image) if image else None


def _client(region: str | None) -> Any:
    from frcnn.aws.endpoint_client import EndpointClient

    return EndpointClient(region)


def _write_response(out: Path, image: Path, body: bytes, media: str) -> Path:
    from frcnn.atomic import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{image.stem}{SUFFIXES.get(media, '.npy' if media == NPY else '.bin')}"
    write_atomically(file, body)
    return file
