"""Batch transform jobs, and the exact request that creates one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from frcnn.aws.endpoint import S3, Model
from frcnn.aws.instances import transform_ami
from frcnn.aws.request_fields import ImageName, Network, RoleArn, S3Uri, tag_list
from frcnn.aws.s3_uri import folder_uri
from frcnn.aws.service_model import check_request
from frcnn.config import Options

MAX_TRANSFORM_MB = 100
JSON_LINES = "application/jsonlines"


class Transform(Options):
    """A batch transform: a model's responses to every image of an S3 folder, written to another folder."""

    name: str = Field(description="of the job, unique: letters, digits and hyphens, at most 63")
    model: str = Field(description="S3 address of a model.tar.gz, or the name of an existing model")
    image: ImageName | None = Field(None, description="image that serves a model given by its S3 address")
    role: RoleArn | None = Field(None, description="ARN of the execution role of such a model")
    network: Network = Field(Network(), description="VPC and isolation of such a model")
    environment: dict[str, str] = Field({}, description="environment variables of such a model's containers")
    input: S3Uri = Field(description="S3 folder of images, or of files with one JSON request per line")
    output: S3Uri = Field(description="S3 folder for the responses, each named like its input with .out appended")
    instance_type: str = Field("ml.g5.xlarge", description="type of every instance")
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="instances, which share the objects")
    content_type: str = Field("application/x-image", description="application/jsonlines: files are split into lines")
    accept: str | None = Field(
        None, description="format of the responses, see docs/serving.md; null: JSON lines for JSON lines, else JSON"
    )
    max_payload_mb: Annotated[int, Field(ge=1, le=MAX_TRANSFORM_MB)] = Field(20, description="largest image or line")
    max_concurrent: Annotated[int, Field(ge=1)] = Field(4, description="concurrent requests per instance")
    ami: str | None = Field(
        None, description="TransformAmiVersion, which determines the GPU driver; null: one that fits the image"
    )
    output_key: str | None = Field(None, description="KMS key of what is written to S3")
    tags: dict[str, str] = Field({}, description="AWS tags")

    @model_validator(mode="after")
    def _check_consistency(self) -> Transform:
        if self.max_payload_mb * self.max_concurrent > MAX_TRANSFORM_MB:
            raise ValueError(
                f"max_payload_mb {self.max_payload_mb} times max_concurrent {self.max_concurrent} exceeds the "
                f"{MAX_TRANSFORM_MB} MB allowed"
            )
        if self.model.startswith(S3) and not self.model.endswith(".tar.gz"):
            raise ValueError(f"model is {self.model!r}; batch transform needs a model.tar.gz")
        if self.model.startswith(S3) and not (self.image and self.role):
            raise ValueError("image and role are needed for a model that is given by its S3 address")
        return self

    def create_model(self) -> Model | None:
        """The model to create; None for an existing one."""
        if not self.model.startswith(S3):
            return None
        return Model(
            name=self.name,
            image=self.image,
            role=self.role,
            artifact=self.model,
            network=self.network,
            environment=self.environment,
            tags=self.tags,
        )

    @property
    def splits_lines(self) -> bool:
        """Whether each line of the input is a request."""
        return self.content_type == JSON_LINES

    @property
    def response_type(self) -> str:
        """Media type of the responses."""
        return self.accept or (JSON_LINES if self.splits_lines else "application/json")

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_transform_job``."""
        output = {
            "S3OutputPath": self.output,
            "Accept": self.response_type,
            "AssembleWith": "Line" if self.splits_lines else "None",
        }
        if self.output_key:
            output["KmsKeyId"] = self.output_key
        resources: dict[str, Any] = {"InstanceType": self.instance_type, "InstanceCount": self.instance_count}
        if ami := self.ami or transform_ami(self.instance_type):
            resources["TransformAmiVersion"] = ami
        request = {
            "TransformJobName": self.name,
            "ModelName": self.name if self.model.startswith(S3) else self.model,
            "MaxConcurrentTransforms": self.max_concurrent,
            "MaxPayloadInMB": self.max_payload_mb,
            # MultiRecord would fill each request up to MaxPayloadInMB: more images than the server accepts.
            "BatchStrategy": "SingleRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": folder_uri(self.input)}},
                "ContentType": self.content_type,
                "SplitType": "Line" if self.splits_lines else "None",
            },
            "TransformOutput": output,
            "TransformResources": resources,
            **tag_list(self.tags),
        }
        check_request("CreateTransformJob", request)
        return request
