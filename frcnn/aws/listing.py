"""Lists jobs and endpoints of an account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frcnn.aws.account import AwsAccount, call_aws
from frcnn.aws.autoscaling import Call

# By kind: the client's method, the member with the list, and the prefix of its entries' members.
_LISTS = {
    "training": ("list_training_jobs", "TrainingJobSummaries", "TrainingJob"),
    "tuning": ("list_hyper_parameter_tuning_jobs", "HyperParameterTuningJobSummaries", "HyperParameterTuningJob"),
    "transform": ("list_transform_jobs", "TransformJobSummaries", "TransformJob"),
    "endpoint": ("list_endpoints", "Endpoints", "Endpoint"),
}
# States in which instances may be running. An endpoint in state Failed has none.
_BILLED = ("InProgress", "Stopping", "InService", "Creating", "Updating", "SystemUpdating", "RollingBack")


def list_calls(kinds: Sequence[str], limit: int) -> list[tuple[str, Call]]:
    """(kind, request) for the newest ``limit`` jobs or endpoints of each kind."""
    request = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": limit}
    return [(kind, Call("sagemaker", _LISTS[kind][0], dict(request)).check()) for kind in kinds]


def list_resources(account: AwsAccount, calls: Sequence[tuple[str, Call]]) -> list[dict[str, Any]]:
    """Kind, name, status, creation time and whether it is billed, of each job and endpoint.

    Raises:
        UserError: AWS rejects a call.
    """
    resources = []
    for kind, call in calls:
        _, member, prefix = _LISTS[kind]
        response = call_aws(getattr(account.client(call.service), call.operation), **call.request)
        resources += [
            {
                "kind": kind,
                "name": entry[f"{prefix}Name"],
                "status": entry[f"{prefix}Status"],
                "created": entry["CreationTime"],
                "billed": entry[f"{prefix}Status"] in _BILLED,
            }
            for entry in response[member]
        ]
    return resources
