"""Types and sections that several requests to AWS share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from frcnn.aws.image_uri import get_image_uri, region_of_image
from frcnn.config import Options
from frcnn.errors import UserError

S3Uri = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$")]
# The model's own pattern, so that an error says what is expected.
RoleArn = Annotated[str, Field(pattern=r"^arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+$")]
Hours = Annotated[float, Field(gt=0)]


class EcrImage(Options):
    """An image in ECR by its parts."""

    repository: str = Field(description="name in ECR")
    tag: str = Field(description="tag, or a digest sha256:…")
    account: str | None = Field(None, description="twelve digits; null: that of the credentials")
    region: str | None = Field(None, description="such as us-east-1; null: the configured one")


def _image_name(image: Any) -> Any:
    if isinstance(image, dict):
        image = get_image_uri(**EcrImage.from_tree(image, "image").model_dump())
    if isinstance(image, str):
        region_of_image(image)
    return image


# Full name of an image in ECR, which may be given as a mapping of EcrImage's fields.
ImageName = Annotated[str, BeforeValidator(_image_name)]


class Network(Options):
    """VPC and network isolation of the containers."""

    subnets: tuple[str, ...] = Field((), description="subnet ids; they need a route to S3, such as a gateway endpoint")
    security_groups: tuple[str, ...] = Field(
        (), description="security group ids; must allow traffic between the hosts of a job"
    )
    isolated: bool = Field(
        False, description="no network except to the other hosts of the job; frcnn does not need any"
    )

    def vpc(self) -> dict[str, Any]:
        """The request's member ``VpcConfig``, or nothing.

        Raises:
            UserError: only one of subnets and security groups is given.
        """
        if bool(self.subnets) != bool(self.security_groups):
            raise UserError("Network: subnets and security_groups belong together; give both, or neither")
        if not self.subnets:
            return {}
        return {"VpcConfig": {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}}


def tag_list(tags: dict[str, str]) -> dict[str, Any]:
    """The request's member ``Tags``, or nothing."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}
