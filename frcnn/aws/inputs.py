"""Base of what a person fills in to start something on SageMaker: immutable, checked at once, mistakes in one sentence."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from frcnn.errors import UserError

S3Uri = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$")]
Hours = Annotated[float, Field(gt=0)]


class Inputs(BaseModel):
    """A pydantic model whose mistakes are ``UserError``: field, value, what was expected, nearest known field.

    Raises:
        UserError: on construction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as invalid:
            problems = "; ".join(_describe(type(self), error) for error in invalid.errors(include_url=False))
            raise UserError(f"{type(self).__name__}: {problems}") from None


class Network(Inputs):
    """A VPC's place for the containers: subnets and security groups; and whether they may reach anything but each other."""

    subnets: tuple[str, ...] = Field((), description="subnet ids; they need a way to S3, such as a gateway endpoint")
    security_groups: tuple[str, ...] = Field(
        (), description="security group ids; members of a job must be let through to each other"
    )
    isolated: bool = Field(
        False, description="no network but to the other hosts of the job; nothing of frcnn needs one"
    )

    def vpc(self) -> dict[str, Any]:
        """The request's member ``VpcConfig``, or nothing.

        Raises:
            UserError: only one of subnets and security groups is given.
        """
        if bool(self.subnets) != bool(self.security_groups):
            raise UserError("Network: subnets and security_groups belong together; give both, or neither")
        return (
            {"VpcConfig": {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}}
            if self.subnets
            else {}
        )


def tag_list(tags: dict[str, str]) -> dict[str, Any]:
    """The request's member ``Tags``, or nothing."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}


def _describe(model: type[BaseModel], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), model.model_fields, n=1)
        return f"unknown field {where!r}" + (
            f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(model.model_fields)}"
        )
    if error["type"] == "missing":
        return f"field {where!r} is missing"
    if error["type"] == "value_error":
        return f"{where + ': ' if where else ''}{error['ctx']['error']}"
    if error["type"] == "string_pattern_mismatch" and "s3://" in error["ctx"]["pattern"]:
        return f"field {where!r} is {error['input']!r}; expected an address such as s3://bucket/folder"
    return f"field {where!r} is {error['input']!r}; {error['msg'][:1].lower() + error['msg'][1:]}"
