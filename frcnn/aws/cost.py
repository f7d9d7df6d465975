"""What jobs and endpoints cost at most. Prices are at aws.amazon.com/sagemaker/pricing."""

from __future__ import annotations

from frcnn.aws.endpoint import Endpoint
from frcnn.aws.instances import LOCAL


def cost(instances: int, instance_type: str, hours: float, price_per_hour: float | None = None) -> str:
    """Instance hours, and money if the hourly price of an instance is given."""
    if instance_type in LOCAL:
        return "nothing, it runs on this machine"
    spent = instances * hours
    text = f"{instances} x {instance_type} for {hours:g} h: {spent:g} instance hours"
    return text + (
        f", {spent * price_per_hour:.2f} at {price_per_hour:g} per hour" if price_per_hour is not None else ""
    )


def endpoint_cost(endpoint: Endpoint, price_per_hour: float | None = None) -> str:
    """What each hour of an endpoint costs, whether it is used or not."""
    parts = []
    for variant in endpoint.variants:
        if variant.serverless:
            parts.append(f"{variant.name}: per request, {variant.serverless.memory_mb} MB; nothing while idle")
            continue
        text = f"{variant.name}: {cost(variant.instance_count, variant.instance_type, 1, price_per_hour)}"
        if scaling := variant.autoscaling:
            text += f", scaled between {scaling.min_instances} and {scaling.max_instances} instances"
        parts.append(text)
    return "; ".join(parts)
