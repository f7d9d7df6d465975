"""Models and endpoints, and the exact requests that create them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from frcnn.aws.autoscaling import Autoscaling, Call
from frcnn.aws.instances import endpoint_ami
from frcnn.aws.request_fields import ImageName, Network, RoleArn, S3Uri, tag_list
from frcnn.aws.service_model import check_request
from frcnn.config import Options

Seconds = Annotated[int, Field(ge=60, le=3600)]
S3 = "s3://"


class Model(Options):
    """A trained model and the image that serves it."""

    name: str = Field(description="unique in account and region: letters, digits and hyphens, at most 63")
    image: ImageName = Field(description="full ECR name, or {repository, tag, account, region}")
    role: RoleArn = Field(description="ARN of the execution role")
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


class Serverless(Options):
    """Capacity of a serverless variant: billed per request, no GPU, slow first request after a pause."""

    memory_mb: Annotated[int, Field(ge=1024, le=6144, multiple_of=1024)] = Field(6144, description="CPU grows with it")
    max_concurrency: Annotated[int, Field(ge=1, le=200)] = Field(5, description="concurrent requests")


class Variant(Options):
    """A production variant: one model's share of an endpoint."""

    model: str = Field(description="S3 address of a model.tar.gz or folder, or the name of an existing model")
    name: str = Field("main", description="of the variant, unique in the endpoint")
    instance_type: str = Field("ml.g5.xlarge", description="type of every instance")
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="instances, billed from the start")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="share of the requests, relative to other variants")
    serverless: Serverless | None = Field(None, description="instead of instances; for CPU images")
    autoscaling: Autoscaling | None = Field(None, description="null: instance_count stays")
    health_seconds: Seconds = Field(
        600, description="time for the container to load and warm up before the endpoint counts as failed"
    )
    download_seconds: Seconds = Field(600, description="time to download the model from S3")
    ami: str | None = Field(
        None, description="InferenceAmiVersion, which determines the GPU driver; null: one that fits the image"
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Variant:
        if self.serverless:
            unused = ("instance_type", "instance_count", "autoscaling", "health_seconds", "download_seconds", "ami")
            if given := [name for name in unused if name in self.model_fields_set]:
                raise ValueError(f"{', '.join(given)} cannot be combined with serverless; remove one of them")
            if self.model.startswith(S3) and not self.model.endswith(".tar.gz"):
                raise ValueError(f"model is {self.model!r}; a serverless variant needs a model.tar.gz")
        return self

    def member(self, model: str) -> dict[str, Any]:
        """Entry of the request's ``ProductionVariants``.

        Args:
            model: name of the model in SageMaker.
        """
        member: dict[str, Any] = {
            "VariantName": self.name,
            "ModelName": model,
            "InitialVariantWeight": self.weight,
        }
        if self.serverless:
            capacity = {
                "MemorySizeInMB": self.serverless.memory_mb,
                "MaxConcurrency": self.serverless.max_concurrency,
            }
            return {**member, "ServerlessConfig": capacity}
        member |= {
            "InstanceType": self.instance_type,
            "InitialInstanceCount": self.instance_count,
            "ContainerStartupHealthCheckTimeoutInSeconds": self.health_seconds,
            "ModelDataDownloadTimeoutInSeconds": self.download_seconds,
        }
        ami = self.ami or endpoint_ami(self.instance_type)
        return member | ({"InferenceAmiVersion": ami} if ami else {})


class Asynchronous(Options):
    """Requests name images in S3 and wait in a queue; responses are written to S3."""

    output: S3Uri = Field(description="S3 folder of the responses")
    max_concurrent: Annotated[int, Field(ge=1, le=1000)] = Field(4, description="concurrent requests per instance")


class DataCapture(Options):
    """Copies of requests and responses in S3."""

    output: S3Uri = Field(description="S3 folder")
    percent: Annotated[int, Field(ge=1, le=100)] = Field(100, description="share of the requests")


class Endpoint(Options):
    """An HTTPS endpoint with one or more variants."""

    name: str = Field(description="of the endpoint and its configuration: letters, digits and hyphens, at most 63")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = Field(description="the models that answer")
    image: ImageName | None = Field(None, description="image that serves models given by their S3 address")
    role: RoleArn | None = Field(None, description="ARN of the execution role of these models")
    network: Network = Field(Network(), description="VPC and isolation of these models")
    environment: dict[str, str] = Field({}, description="environment variables of these models' containers")
    disk_key: str | None = Field(None, description="KMS key of the instances' disks; not for types with NVMe disks")
    asynchronous: Asynchronous | None = Field(None, description="null: requests are answered at once")
    data_capture: DataCapture | None = Field(None, description="null: requests are not stored")
    tags: dict[str, str] = Field({}, description="AWS tags")

    @model_validator(mode="after")
    def _check_consistency(self) -> Endpoint:
        names = [variant.name for variant in self.variants]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants are named {', '.join(sorted(duplicates))}; give each its own name")
        if not any(variant.weight for variant in self.variants):
            raise ValueError("all variants have weight 0, so none would get requests; give one a weight above 0")
        if self.asynchronous and len(names) > 1:
            raise ValueError("an asynchronous endpoint has one variant; create an endpoint for each")
        if any(variant.model.startswith(S3) for variant in self.variants) and not (self.image and self.role):
            raise ValueError("image and role are needed for models that are given by their S3 address")
        for variant in self.variants:
            if variant.autoscaling:
                variant.autoscaling.check_endpoint(self.asynchronous is not None)
        if any(variant.serverless for variant in self.variants):
            self._check_serverless()
        return self

    def _check_serverless(self) -> None:
        unsupported = {
            "several variants": len(self.variants) > 1,
            "asynchronous": self.asynchronous,
            "data_capture": self.data_capture,
            "disk_key": self.disk_key,
            "network": self.network != Network(),
        }
        if used := [name for name, value in unsupported.items() if value]:
            raise ValueError(f"serverless endpoints do not support {', '.join(used)}; remove it, or use instances")

    def models(self) -> list[Model]:
        """The models to create: of every variant that is given by an S3 address."""
        return [
            Model(
                name=self._model_name(variant),
                image=self.image,
                role=self.role,
                artifact=variant.model,
                network=self.network,
                environment=self.environment,
                tags=self.tags,
            )
            for variant in self.variants
            if variant.model.startswith(S3)
        ]

    def config_request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_endpoint_config``."""
        request: dict[str, Any] = {
            "EndpointConfigName": self.name,
            "ProductionVariants": [variant.member(self._model_name(variant)) for variant in self.variants],
            **tag_list(self.tags),
        }
        if self.disk_key:
            request["KmsKeyId"] = self.disk_key
        if self.asynchronous:
            request["AsyncInferenceConfig"] = {
                "OutputConfig": {"S3OutputPath": self.asynchronous.output},
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": self.asynchronous.max_concurrent},
            }
        if self.data_capture:
            request["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": self.data_capture.percent,
                "DestinationS3Uri": self.data_capture.output,
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            }
        check_request("CreateEndpointConfig", request)
        return request

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_endpoint``."""
        request = {"EndpointName": self.name, "EndpointConfigName": self.name, **tag_list(self.tags)}
        check_request("CreateEndpoint", request)
        return request

    def scaling_calls(self) -> list[Call]:
        """Requests that scale the variants, to be sent once the endpoint is in service."""
        return [
            call
            for variant in self.variants
            if variant.autoscaling
            for call in variant.autoscaling.calls(self.name, variant.name)
        ]

    def _model_name(self, variant: Variant) -> str:
        return f"{self.name}-{variant.name}" if variant.model.startswith(S3) else variant.model


def weights_request(endpoint: str, weights: dict[str, float]) -> dict[str, Any]:
    """Keyword arguments of ``update_endpoint_weights_and_capacities``, which shifts traffic between variants."""
    desired = [{"VariantName": name, "DesiredWeight": weight} for name, weight in weights.items()]
    request = {"EndpointName": endpoint, "DesiredWeightsAndCapacities": desired}
    check_request("UpdateEndpointWeightsAndCapacities", request)
    return request
