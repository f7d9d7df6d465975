"""Models behind endpoints and in batch transforms as a person describes them, and the exact requests for them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from frcnn.aws.image_uri import region_of_image
from frcnn.aws.inputs import Inputs, Network, S3Uri, tag_list
from frcnn.aws.instances import endpoint_ami, transform_ami
from frcnn.aws.s3_uri import exact_prefix
from frcnn.aws.service_model import check_request
from frcnn.errors import UserError

# What botocore lets through in one call of an endpoint; larger pictures go through batch transform or an asynchronous endpoint.
LARGEST_BODY = 6291456
LARGEST_TRANSFORM_MB = 100
LINES = "application/jsonlines"
Seconds = Annotated[int, Field(ge=60, le=3600)]


class Model(Inputs):
    """A trained model with the image that serves it."""

    name: str = Field(description="unique in account and region: letters, digits and hyphens, at most 63")
    image: str = Field(description="full ECR name, the same image that trained it")
    role: str = Field(description="ARN of the execution role")
    artifact: S3Uri = Field(
        description="model.tar.gz of a training job, or a folder, which must end in / (not for batch transform)"
    )
    network: Network = Field(Network(), description="VPC, isolation")
    environment: dict[str, str] = Field({}, description="environment variables of the containers; see docs/serving.md")
    tags: dict[str, str] = Field({}, description="for bills and permissions")

    @model_validator(mode="after")
    def _belongs_together(self) -> Model:
        region_of_image(self.image)
        self.network.vpc()
        if not self.artifact.endswith((".tar.gz", "/")):
            raise ValueError(f"artifact is {self.artifact!r}; expected a model.tar.gz, or a folder, which ends in /")
        return self

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_model``."""
        container: dict[str, Any] = {"Image": self.image}
        if self.artifact.endswith("/"):
            source = {"S3Uri": self.artifact, "S3DataType": "S3Prefix", "CompressionType": "None"}
            container["ModelDataSource"] = {"S3DataSource": source}
        else:
            container["ModelDataUrl"] = self.artifact
        if self.environment:
            container["Environment"] = self.environment
        request = {
            "ModelName": self.name,
            "PrimaryContainer": container,
            "ExecutionRoleArn": self.role,
            "EnableNetworkIsolation": self.network.isolated,
            **self.network.vpc(),
            **tag_list(self.tags),
        }
        check_request("CreateModel", request)
        return request


class Variant(Inputs):
    """One model's share of an endpoint."""

    model: str = Field(description="name of a Model")
    name: str | None = Field(None, description="null: the model's")
    instance_type: str = Field("ml.g5.xlarge", description="of every instance")
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="instances, all paid from the start")
    weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="share of the requests, in relation to the other variants'"
    )
    health_seconds: Seconds = Field(
        600, description="time for the container to load and warm up, before the endpoint counts as failed"
    )
    download_seconds: Seconds = Field(600, description="time to fetch the model from S3")
    ami: str | None = Field(
        None, description="InferenceAmiVersion, which decides on the host's driver; null: one that fits the image"
    )

    def member(self) -> dict[str, Any]:
        """Entry of the request's ``ProductionVariants``."""
        member: dict[str, Any] = {
            "VariantName": self.name or self.model,
            "ModelName": self.model,
            "InstanceType": self.instance_type,
            "InitialInstanceCount": self.instance_count,
            "InitialVariantWeight": self.weight,
            "ContainerStartupHealthCheckTimeoutInSeconds": self.health_seconds,
            "ModelDataDownloadTimeoutInSeconds": self.download_seconds,
        }
        ami = self.ami or endpoint_ami(self.instance_type)
        return member | ({"InferenceAmiVersion": ami} if ami else {})


class Endpoint(Inputs):
    """An HTTPS address with one variant or several behind it."""

    name: str = Field(description="of the endpoint and of its configuration: letters, digits and hyphens, at most 63")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = Field(description="what answers, and how often")
    disk_key: str | None = Field(None, description="KMS key of the instances' disks; not for types with NVMe disks")
    async_output: S3Uri | None = Field(
        None, description="S3 folder: requests name pictures in S3, and answers are put here"
    )
    tags: dict[str, str] = Field({}, description="for bills and permissions")

    @model_validator(mode="after")
    def _belongs_together(self) -> Endpoint:
        names = [variant.name or variant.model for variant in self.variants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants are named {', '.join(sorted(twice))}; give each its own name")
        if not any(variant.weight for variant in self.variants):
            raise ValueError("all variants have weight 0, so that none would answer; give one a weight above 0")
        if self.async_output and len(names) > 1:
            raise ValueError("an asynchronous endpoint has one variant; make an endpoint for each")
        return self

    def config_request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_endpoint_config``."""
        request: dict[str, Any] = {
            "EndpointConfigName": self.name,
            "ProductionVariants": [variant.member() for variant in self.variants],
            **tag_list(self.tags),
        }
        if self.disk_key:
            request["KmsKeyId"] = self.disk_key
        if self.async_output:
            request["AsyncInferenceConfig"] = {"OutputConfig": {"S3OutputPath": self.async_output}}
        check_request("CreateEndpointConfig", request)
        return request

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_endpoint``."""
        request = {"EndpointName": self.name, "EndpointConfigName": self.name, **tag_list(self.tags)}
        check_request("CreateEndpoint", request)
        return request


class Transform(Inputs):
    """A batch transform: every picture of an S3 folder once through a model, the answers beside each other in another."""

    name: str = Field(description="of the job, unique: letters, digits and hyphens, at most 63")
    model: str = Field(description="name of a Model whose artifact is a model.tar.gz")
    input: S3Uri = Field(description="S3 folder of pictures, or of files with one JSON request a line")
    output: S3Uri = Field(description="S3 folder for the answers, each named as its input with .out")
    instance_type: str = Field("ml.g5.xlarge", description="of every instance")
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="instances, which share the objects")
    content_type: str = Field("application/x-image", description="application/jsonlines: the files are cut into lines")
    accept: str | None = Field(
        None, description="form of the answers, see docs/serving.md; null: JSON lines for JSON lines, else JSON"
    )
    payload_mb: Annotated[int, Field(ge=1, le=LARGEST_TRANSFORM_MB)] = Field(
        20, description="largest picture, or longest line"
    )
    at_once: Annotated[int, Field(ge=1)] = Field(4, description="requests that an instance gets at a time")
    ami: str | None = Field(
        None, description="TransformAmiVersion, which decides on the host's driver; null: one that fits the image"
    )
    output_key: str | None = Field(None, description="KMS key of what is written to S3")
    tags: dict[str, str] = Field({}, description="for bills and permissions")

    @model_validator(mode="after")
    def _belongs_together(self) -> Transform:
        if self.payload_mb * self.at_once > LARGEST_TRANSFORM_MB:
            raise ValueError(
                f"payload_mb {self.payload_mb} times at_once {self.at_once} exceeds the {LARGEST_TRANSFORM_MB} MB allowed"
            )
        return self

    @property
    def lines(self) -> bool:
        """Whether the input is cut into lines, each a request of its own."""
        return self.content_type == LINES

    @property
    def answer_type(self) -> str:
        """Media type of the answers."""
        return self.accept or (LINES if self.lines else "application/json")

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_transform_job``."""
        output = {
            "S3OutputPath": self.output,
            "Accept": self.answer_type,
            "AssembleWith": "Line" if self.lines else "None",
        }
        if self.output_key:
            output["KmsKeyId"] = self.output_key
        resources: dict[str, Any] = {"InstanceType": self.instance_type, "InstanceCount": self.instance_count}
        if ami := self.ami or transform_ami(self.instance_type):
            resources["TransformAmiVersion"] = ami
        request = {
            "TransformJobName": self.name,
            "ModelName": self.model,
            "MaxConcurrentTransforms": self.at_once,
            "MaxPayloadInMB": self.payload_mb,
            # As many lines as payload_mb takes in one request would be more pictures than the server accepts.
            "BatchStrategy": "SingleRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": exact_prefix(self.input)}},
                "ContentType": self.content_type,
                "SplitType": "Line" if self.lines else "None",
            },
            "TransformOutput": output,
            "TransformResources": resources,
            **tag_list(self.tags),
        }
        check_request("CreateTransformJob", request)
        return request


def invoke_request(
    endpoint: str,
    picture: bytes,
    *,
    content_type: str = "application/x-image",
    accept: str = "application/json",
    variant: str | None = None,
    options: dict[str, float | str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of ``boto3.client("sagemaker-runtime").invoke_endpoint``.

    Args:
        endpoint: its name.
        picture: an encoded picture, or a body of another content type.
        content_type: form of the body.
        accept: form of the answer.
        variant: the one that shall answer; None lets the weights decide.
        options: score_threshold, max_detections, classes; sent as custom attributes.

    Raises:
        UserError: the body is larger than one call may be, or a value is not allowed.
    """
    if len(picture) > LARGEST_BODY:
        raise UserError(
            f"the picture has {len(picture) / 2**20:.1f} MiB and a call of an endpoint may have {LARGEST_BODY / 2**20:.0f}; "
            "make it smaller, or use batch transform"
        )
    request: dict[str, Any] = {"EndpointName": endpoint, "Body": picture, "ContentType": content_type, "Accept": accept}
    if variant:
        request["TargetVariant"] = variant
    if options:
        request["CustomAttributes"] = ",".join(f"{key}={value}" for key, value in options.items())
    check_request("InvokeEndpoint", request, service="sagemaker-runtime")
    return request
