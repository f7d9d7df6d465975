"""Models and endpoints, and the exact requests that create them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from frcnn.aws.instances import endpoint_ami
from frcnn.aws.request_fields import ImageName, Network, S3Uri, tag_list
from frcnn.aws.service_model import check_request
from frcnn.config import Options

Seconds = Annotated[int, Field(ge=60, le=3600)]


class Model(Options):
    """A trained model and the image that serves it."""

    name: str = Field(description="unique in account and region: letters, digits and hyphens, at most 63")
    image: ImageName = Field(description="full ECR name, or {repository, tag, account, region}")
    role: str = Field(description="ARN of the execution role")
    artifact: S3Uri = Field(
        description="model.tar.gz of a training job, or a folder, which must end in / (not for batch transform)"
    )
    network: Network = Field(Network(), description="VPC, isolation")
    environment: dict[str, str] = Field({}, description="environment variables of the containers; see docs/serving.md")
    tags: dict[str, str] = Field({}, description="AWS tags")

    @model_validator(mode="after")
    def _check_consistency(self) -> Model:
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


class Variant(Options):
    """A production variant: one model's share of an endpoint."""

    model: str = Field(description="name of a Model")
    name: str | None = Field(None, description="null: the name of the model")
    instance_type: str = Field("ml.g5.xlarge", description="type of every instance")
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="instances, billed from the start")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="share of the requests, relative to other variants")
    health_seconds: Seconds = Field(
        600, description="time for the container to load and warm up before the endpoint counts as failed"
    )
    download_seconds: Seconds = Field(600, description="time to download the model from S3")
    ami: str | None = Field(
        None, description="InferenceAmiVersion, which determines the GPU driver; null: one that fits the image"
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


class Endpoint(Options):
    """An HTTPS endpoint with one or more variants."""

    name: str = Field(description="of the endpoint and its configuration: letters, digits and hyphens, at most 63")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = Field(description="the models that answer")
    disk_key: str | None = Field(None, description="KMS key of the instances' disks; not for types with NVMe disks")
    async_output: S3Uri | None = Field(
        None, description="S3 folder: requests name images in S3, and responses are written here"
    )
    tags: dict[str, str] = Field({}, description="AWS tags")

    @model_validator(mode="after")
    def _check_consistency(self) -> Endpoint:
        names = [variant.name or variant.model for variant in self.variants]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants are named {', '.join(sorted(duplicates))}; give each its own name")
        if not any(variant.weight for variant in self.variants):
            raise ValueError("all variants have weight 0, so none would get requests; give one a weight above 0")
        if self.async_output and len(names) > 1:
            raise ValueError("an asynchronous endpoint has one variant; create an endpoint for each")
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
